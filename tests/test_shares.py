"""What of this machine each of several workers gets."""

from typing import Any

import pytest

from desk.conftest import study_spec
from tunewise.commands.sharding import require_shardable
from tunewise.errors import SpecError
from tunewise.executors.local import shares
from tunewise.executors.local.shares import listed_gpus, shared, visible_gpus
from tunewise.spec import MachineSpec

ONE = "GPU 0: NVIDIA H200 (UUID: GPU-11111111-2222-3333-4444-555555555555)\n"
TWO = ONE + "GPU 1: Some (odd) card (UUID: GPU-66666666-2222-3333-4444-555555555555)\n"
DIVIDED = ONE + (
    "  MIG 3g.71gb     Device  0: (UUID: MIG-aaaaaaaa-2222-3333-4444-555555555555)\n"
    "  MIG 1g.18gb     Device  1: (UUID: MIG-bbbbbbbb-2222-3333-4444-555555555555)\n"
)


def machine(**content: object) -> MachineSpec:
    return MachineSpec.model_validate(content)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and two GPUs, of which the user allows two of three."""
    monkeypatch.setattr(shares, "usable_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-a")


def test_the_gpus_are_those_of_nvidia_smi_and_of_a_divided_one_its_parts() -> None:
    assert listed_gpus("No devices found.\n") == ()
    assert [name[:5] for name in listed_gpus(TWO)] == ["GPU-1", "GPU-6"]
    assert [name[:5] for name in listed_gpus(DIVIDED)] == ["MIG-a", "MIG-b"]


@pytest.mark.parametrize(("given", "seen"), [("", ()), ("1", ("1",)), ("2,0", ("2", "0")), ("0,-1,1", ("0",))])
def test_what_the_user_hides_stays_hidden(given: str, seen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == seen


@pytest.mark.usefixtures("box")
def test_each_worker_has_a_gpu_of_its_own_or_a_share_of_the_cores() -> None:
    assert shared(machine()) == (machine(), ({},)), "one worker: nothing changes"
    for workers in (2, "auto"):
        found, environments = shared(machine(workers=workers))
        assert [of["CUDA_VISIBLE_DEVICES"] for of in environments] == ["3", "GPU-a"]
        assert found.threads is None
    found, environments = shared(machine(workers=3, device="cpu"))
    assert (found.threads, len(environments)) == (2, 3)
    found, environments = shared(machine(workers="auto", device="cpu", threads=4))
    assert (found.threads, len(environments)) == (4, 2)


@pytest.mark.usefixtures("box")
def test_a_run_on_several_devices_has_as_many_gpus_or_shares_of_the_cores() -> None:
    for workers in (1, "auto"):
        _, environments = shared(machine(devices_per_run=2, workers=workers))
        assert environments == ({"CUDA_VISIBLE_DEVICES": "3,GPU-a"},)
    found, environments = shared(machine(devices_per_run=2, device="cpu"))
    assert (found.threads, len(environments)) == (4, 1)
    found, environments = shared(machine(devices_per_run=2, device="cpu", workers="auto", threads=2))
    assert (found.threads, len(environments)) == (2, 2)


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"devices_per_run": 3}, "sees 2 GPUs.*at most 2.*machine.device: cpu"),
        ({"devices_per_run": 2, "workers": 2}, "sees 2 GPUs"),
        ({"devices_per_run": 9, "device": "cpu"}, "needs 9 cores.*only 8 here.*at most 8 devices per run"),
        ({"devices_per_run": 4, "device": "cpu", "threads": 3}, "needs 12 cores.*at most 2 devices"),
        ({"devices_per_run": 2, "device": "mps"}, "needs Linux"),
    ],
)
def test_more_devices_than_there_are_is_refused(content: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        shared(machine(**content))


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"method": "full", "extract": [4]}, "arms.arm: extract.*Remove extract"),
        ({"method": "lora", "variant": "pissa"}, "pissa.*variant: rslora"),
        ({"method": "lora", "base": "nf4"}, "base: nf4.*Remove base"),
        ({"method": "lora", "rank": "auto"}, "rank: auto.*Set a rank"),
        ({"method": "peft", "type": "PROMPT_TUNING"}, "method peft.*lora or full"),
        ({"method": "head"}, "method head"),
        ({"method": "existing", "path": "somewhere"}, "method existing"),
    ],
)
@pytest.mark.usefixtures("box")
def test_an_arm_that_several_devices_cannot_make_is_refused_by_name(arm: dict[str, Any], words: str) -> None:
    study = study_spec(arms={"arm": arm}, machine={"devices_per_run": 2})
    with pytest.raises(SpecError, match=words) as refused:
        require_shardable(study)
    assert "remove machine.devices_per_run" in str(refused.value)
    require_shardable(study.replace(machine={}))


@pytest.mark.usefixtures("box")
def test_only_language_models_are_divided() -> None:
    study = study_spec(arms={"lora": {"method": "lora"}, "full": {"method": "full"}}, machine={"devices_per_run": 2})
    for task in (None, "sft", "lm"):
        require_shardable(study.replace(task=task))
    with pytest.raises(SpecError, match="only for tasks sft and lm"):
        require_shardable(study.replace(task="classify"))


@pytest.mark.usefixtures("box")
def test_runs_of_a_folder_keep_their_number_of_threads() -> None:
    found, environments = shared(machine(workers=4, device="cpu"), lambda: 1)
    assert (found.threads, len(environments)) == (1, 4)
    with pytest.raises(SpecError, match="at most 2 workers with 4 threads each"):
        shared(machine(workers=4, device="cpu"), lambda: 4)


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"workers": 3}, "tunewise sees 2 GPUs.*1 to 2, or auto"),
        ({"workers": 9, "device": "cpu"}, "each run has 1 threads, but tunewise may use only 8 cores"),
        ({"workers": 2, "device": "mps"}, "this machine has one GPU"),
    ],
)
def test_more_workers_than_the_machine_has_room_for_are_refused(content: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        shared(machine(**content))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SpecError, match="no GPU was found"):
        shared(machine(workers=2, device="cuda"))

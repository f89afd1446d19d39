"""Laws 57 to 59, and 61: a run over several devices (`machine.devices_per_run`), here two processes of one CPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from test_continuing import NUM_STEPS, TRAIN, Study, flip
from transformers import AutoModelForCausalLM

from builders import make_run_spec
from lab_fixtures import VOCABULARY
from tunewise.executors.base import RunJob
from tunewise.executors.local.client import LocalExecutor
from tunewise.executors.local.together import Part, together
from tunewise.lab.placement import HANG_SECONDS, Placement
from tunewise.lab.run.record import _largest_memory
from tunewise.records import Memory, events
from tunewise.records.events import Event
from tunewise.spec import SamplesSpec
from tunewise.storage.files import files_below
from tunewise.storage.ledger import CHECKPOINT

FULL: dict[str, Any] = {"method": "full"}
LORA: dict[str, Any] = {"method": "lora", "rank": 4}
ENDED_SECONDS = 10.0
# What a run leaves: nothing of it can be a pickle but files of these kinds, which are opened below.
KINDS = {".json", ".jsonl", ".parquet", ".txt", ".md", ".jinja", ".safetensors"}


class Sharded(Study):
    """A study of one method whose runs are made by `devices` processes of a server."""

    def __init__(self, root: Path, model: str, method: dict[str, Any], devices: int, **changes: Any) -> None:
        content = {"learning_rate": 1e-3, "samples": SamplesSpec(count=2, max_new_tokens=4).model_dump(), **changes}
        super().__init__(root, Path(model), "sft", method, devices=devices, **content)

    def job(self) -> RunJob:
        """A job for the run, with a checkpoint after every step."""
        folder = self.ledger.begin(self.spec)
        return RunJob(
            folder=folder, data=self.data, checkpoint_seconds=0, limit_seconds=None, max_tokens=20,
            devices=self.spec.devices,
        )  # fmt: skip

    def weights(self) -> dict[str, torch.Tensor]:
        """The saved ones."""
        (path,) = (self.folder / "weights").glob("*.safetensors")
        return load_file(path)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalExecutor]:
    with LocalExecutor() as executor:
        yield executor


Make = Callable[..., Sharded]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path]) -> Make:
    def make(model: str, method: dict[str, Any], devices: int, **changes: Any) -> Sharded:
        name = "tiny" if model == "tiny" else str(folder_of(model))
        return Sharded(tmp_path_factory.mktemp("sharded"), name, method, devices, **changes)

    return make


@pytest.fixture(scope="module")
def made(study: Make, server: LocalExecutor) -> Callable[..., Sharded]:
    """A study whose run is done; the same one for the same arguments."""
    known: dict[str, Sharded] = {}

    def done(model: str, method: dict[str, Any], devices: int, **changes: Any) -> Sharded:
        key = json.dumps([model, method, devices, changes])
        if key not in known:
            known[key] = study(model, method, devices, **changes)
            told = list(server.submit([known[key].job()]))
            assert any(isinstance(event, events.Done) for event in told), told
        return known[key]

    return done


def relative(found: float, expected: float) -> float:
    return abs(found - expected) / abs(expected)


# Bounds on the 2-norm of the difference in each tensor of weights. Measured in fp32: 3.5e-8 and 4.6e-7 untied, 5.3e-7
# and 1.0e-5 tied, 1.9e-7 for DoRA.
# A key's bias has the true gradient 0, so AdamW moves it by rounding alone. In bf16, losses of GPT-2 show that.
NOISE = ("attn.c_attn.bias", "k_proj.bias", "attention.self.key.bias")
# With mixed precision every process computes one row at a time, as one does: a weight's gradient is rounded for each
# batch, and other batches would give other roundings.
BF16: dict[str, Any] = {"precision": "bf16", "train": TRAIN.replace(micro_batch_tokens=1).model_dump()}
CASES = {
    "untied full": ("llama", FULL, {}, 5e-6),
    "untied lora": ("llama", LORA, {}, 5e-6),
    "tied full": ("tiny", FULL, {}, 5e-6),
    "tied lora": ("tiny", LORA, {}, 5e-5),
    "qwen2 full": ("qwen2", FULL, {}, 5e-6),
    "qwen2 lora": ("qwen2", LORA, {}, 5e-6),
    "dora": ("llama", {**LORA, "variant": "dora"}, {}, 5e-6),
    "recomputed": ("llama", FULL, {"train": TRAIN.replace(gradient_checkpointing=True).model_dump()}, 5e-6),
    "bf16 untied full": ("llama", FULL, BF16, 5e-6),
    "bf16 untied lora": ("llama", LORA, BF16, 5e-6),
    "bf16 tied full": ("gemma", FULL, BF16, 5e-6),
    "bf16 tied lora": ("tiny", LORA, BF16, 5e-5),
    "bf16 dora": ("llama", {**LORA, "variant": "dora"}, BF16, 5e-6),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_law_57_two_processes_train_score_and_save_what_one_does(case: str, made: Callable[..., Sharded]) -> None:
    """Law 57: rows of steps do not divide by two, and their lengths differ, so one process often has an empty batch."""
    model, method, changes, bound = CASES[case]
    one, two = (made(model, method, devices, **changes) for devices in (1, 2))
    expected, found = one.result(), two.result()
    assert found["counts"] == expected["counts"], "tokens, supervised tokens, and bytes saved"
    assert len(found["steps"]) == NUM_STEPS
    worst = {"loss": 0.0, "norm": 0.0, "score": 0.0, "weights": 0.0}
    for step, same in zip(found["steps"], expected["steps"], strict=True):
        for name in ("step", "learning_rate", "num_targets", "num_tokens"):
            assert step[name] == same[name]
        worst["loss"] = max(worst["loss"], relative(step["loss"], same["loss"]))
        worst["norm"] = max(worst["norm"], relative(step["gradient_norm"], same["gradient_norm"]))
    rows, others = (pq.read_table(of.folder / "scores.parquet").to_pylist() for of in (two, one))
    for row, other in zip(rows, others, strict=True):
        worst["score"] = max(worst["score"], relative(row.pop("nll"), other.pop("nll")))
        assert row == other, "the same examples in the same order"
    weights = two.weights()
    for name, tensor in one.weights().items():
        if not name.endswith(NOISE):
            worst["weights"] = max(worst["weights"], float((weights[name] - tensor).norm() / tensor.norm()))
    print(case, worst)
    assert worst["loss"] < 2e-6, worst
    assert worst["norm"] < 2e-5, worst
    assert worst["score"] < 2e-6, worst
    assert worst["weights"] < bound, worst
    assert found["record"]["samples"] == expected["record"]["samples"]
    assert found["record"]["selected_step"] == expected["record"]["selected_step"]


# As a server does, with logits in parts of three targets; without a lifeline, because the test waits.
IN_PARTS = """
import os, sys
from pathlib import Path
from tunewise.executors.local import server, together
from tunewise.lab.train import loss
job = server.JOB.validate_json(sys.argv[1])
loss.MAX_LOGITS = 3 * int(sys.argv[2])
server.EVENTS = os.dup(1)
server.LIFELINE, _ = os.pipe()
sys.exit(abs(together.together(job.devices, lambda part: server.do(job, part))))
"""


@pytest.mark.slow
def test_law_57_processes_may_have_different_numbers_of_parts_of_logits(
    study: Make, made: Callable[..., Sharded]
) -> None:
    """Law 57: nothing is exchanged between the two stages of a loss, where one process computes more parts."""
    parted = study("llama", FULL, 2)
    command = [sys.executable, "-P", "-c", IN_PARTS, parted.job().model_dump_json(), str(VOCABULARY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    for step, same in zip(parted.result()["steps"], made("llama", FULL, 1).result()["steps"], strict=True):
        assert relative(step["loss"], same["loss"]) < 2e-6
        assert relative(step["gradient_norm"], same["gradient_norm"]) < 2e-5


def test_law_57_the_number_of_devices_is_part_of_a_runs_identity_beyond_one() -> None:
    """Law 57: runs that were made before there could be several keep their ids."""
    one = make_run_spec(numerics=7)
    assert one.run_id == "61be40334f06fc96", "as of the commit before this field"
    assert len({one.replace(devices=devices).run_id for devices in (1, 2, 4)}) == 3


# --- resuming


def heard(server: LocalExecutor, job: RunJob, kill: tuple[int, int] | None = None) -> list[Event]:
    """Events of the job; `kill`: a rank, and the step after which it is killed. All end soon, and nobody is left."""
    told: list[Event] = []
    killed_at = None
    for event in server.submit([job]):
        told.append(event)
        if kill and isinstance(event, events.Step) and event.step == kill[1]:
            ranks = sorted(psutil.Process(server.process.pid).children(), key=lambda process: process.pid)
            assert len(ranks) == job.devices
            addresses = {link.laddr.ip for link in ranks[0].net_connections() if link.laddr}
            assert addresses, "they talk to each other"
            assert addresses <= {"127.0.0.1", "::1"}, "and no other machine can reach them"
            ranks[kill[0]].kill()
            killed_at = time.monotonic()
    assert killed_at is None or time.monotonic() - killed_at < ENDED_SECONDS
    assert psutil.Process(server.process.pid).children() == []
    return told


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "tiny"])
def test_law_58_a_run_of_which_one_process_is_killed_resumes_to_the_same_bits(
    model: str, study: Make, made: Callable[..., Sharded], server: LocalExecutor
) -> None:
    method = FULL if model == "tiny" else {**LORA, "dropout": 0.3}
    broken = study(model, method, 2)
    for kill in ((1, 3), (0, 5)):
        told = heard(server, broken.job(), kill)
        assert told[-1] == events.End(code=-9)
        assert not any(isinstance(event, events.Done) for event in told)
    told = heard(server, broken.job())
    steps = [event.step for event in told if isinstance(event, events.Step)]
    assert steps[0] > 3, "it went on from a checkpoint"
    assert steps[-1] == NUM_STEPS
    whole = made(model, method, 2)
    assert broken.result() == whole.result()
    for name, tensor in whole.weights().items():
        assert torch.equal(broken.weights()[name], tensor), name
    assert not (broken.folder / CHECKPOINT).exists()


@pytest.mark.slow
def test_law_58_a_step_counts_only_if_all_processes_stored_it(
    study: Make, made: Callable[..., Sharded], server: LocalExecutor
) -> None:
    method = {**LORA, "dropout": 0.3}
    broken = study("llama", method, 2)
    heard(server, broken.job(), (1, 5))
    stored = list((broken.folder / CHECKPOINT / "rank-1" / CHECKPOINT).glob("step-*"))
    assert stored, "two, if it was killed before the former one was deleted"
    for path in stored:
        flip(path, path.stat().st_size // 2)
    job = broken.job()
    told = heard(server, job)
    assert [event.step for event in told if isinstance(event, events.Step)][0] == 1
    assert broken.result() == made("llama", method, 2).result()


def test_law_58_the_process_that_fails_gives_the_reason_and_all_end(study: Make, server: LocalExecutor) -> None:
    broken = study("llama", LORA, 2)
    job = broken.job()
    (broken.folder / CHECKPOINT).mkdir()
    (broken.folder / CHECKPOINT / "rank-1").write_text("where a folder should be", encoding="utf-8")
    told = heard(server, job)
    (reason,) = [event for event in told if isinstance(event, events.Refused | events.Crashed)]
    assert "rank-1" in reason.message
    assert told[-1].code != 0


@pytest.mark.parametrize("ending", [5, -9])
def test_law_58_when_one_process_fails_all_end_and_one_reports(ending: int) -> None:
    """Law 58: of processes that only wait; all of them try to report."""
    read, write = os.pipe()

    def work(part: Part) -> int:
        if part.may_report():
            os.write(write, b"1")
        if part.rank == 1:
            time.sleep(1)  # the others have tried by then
            if ending < 0:
                os.kill(os.getpid(), -ending)
            return ending
        time.sleep(3 * ENDED_SECONDS)
        return 0

    began = time.monotonic()
    assert together(3, work) == ending
    assert time.monotonic() - began < ENDED_SECONDS
    os.close(write)
    assert os.read(read, 99) == b"1"
    os.close(read)


# --- what is saved


def test_law_59_the_adapter_of_two_processes_is_whole_for_plain_peft(
    made: Callable[..., Sharded], folder_of: Callable[[str], Path]
) -> None:
    one, two = (made("llama", LORA, devices) for devices in (1, 2))
    for name, tensor in two.weights().items():
        first, second = tensor.chunk(2)
        assert first.any(), name
        assert second.any(), name
    for name in ("adapter_config.json",):
        assert (two.folder / "weights" / name).read_text() == (one.folder / "weights" / name).read_text()
    ids = torch.tensor([[5, 9, 4, 7, 6, 8]])
    logits = []
    for of in (one, two):
        base = AutoModelForCausalLM.from_pretrained(folder_of("llama"), dtype=torch.float32)
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(base, of.folder / "weights").eval()(ids).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)


def test_law_59_the_model_of_two_processes_is_whole_for_plain_transformers(made: Callable[..., Sharded]) -> None:
    one, two = (made("tiny", FULL, devices) for devices in (1, 2))
    for name in ("config.json", "generation_config.json"):
        assert (two.folder / "weights" / name).read_text() == (one.folder / "weights" / name).read_text()
    ids = torch.tensor([[5, 9, 4, 7, 6, 8]])
    logits = []
    for of in (one, two):
        model, found = AutoModelForCausalLM.from_pretrained(of.folder / "weights", output_loading_info=True)
        assert not found["missing_keys"]
        with torch.no_grad():
            logits.append(model.eval()(ids).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_law_59_no_file_of_such_a_run_holds_a_pickle(study: Make, server: LocalExecutor) -> None:
    """Neither when it ended, nor while it has checkpoints."""
    broken = study("llama", LORA, 2)
    heard(server, broken.job(), (1, 4))
    cut_off = {".tmp"}  # a file that the killed process was writing
    assert tensor_files(broken.folder, KINDS | cut_off) == {CHECKPOINT}
    heard(server, broken.job())
    assert tensor_files(broken.folder) == {"weights"}


def tensor_files(folder: Path, kinds: Collection[str] = KINDS) -> set[str]:
    """Folders of its files of tensors. All others are of kinds that hold none, but for the file of a meeting."""
    found = set()
    for path in files_below(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                assert list(tensors.keys()), path
            found.add(path.parent.name)
        elif not path.name.startswith("meeting"):  # addresses by which they found each other
            assert path.suffix in kinds, path
            assert path.read_bytes()[:2] != b"PK", path
    return found


# --- a process that does not answer, or has no memory left

# As a server does. The second process does not answer when the third step begins, or cannot hold more than 10 tokens.
ILL = """
import os, sys, time
from tunewise.executors.local import server, together
from tunewise.lab import placement
from tunewise.lab.run import training
from tunewise.lab.train import loop
job, illness = server.JOB.validate_json(sys.argv[1]), sys.argv[2]
placement.HANG_SECONDS = float(sys.argv[3])
server.EVENTS = os.dup(1)
server.LIFELINE, _ = os.pipe()
add_gradient = loop.add_gradient

def work(part):
    def ill(model, batch, num_targets, compute):
        if part.rank == 1 and illness == "hangs":
            time.sleep(600)
        if part.rank == 1 and illness == "is full" and batch.input_ids_BT.numel() > 10:
            raise MemoryError("no room")
        return add_gradient(model, batch, num_targets, compute)

    loop.add_gradient = ill
    return server.do(job, part)

sys.exit(abs(together.together(job.devices, work)))
"""


def ended(of: RunJob, illness: str, hang_seconds: float) -> tuple[int, list[str]]:
    """Exit status of the job, and what was reported beside steps."""
    command = [sys.executable, "-P", "-c", ILL, of.model_dump_json(), illness, str(hang_seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, [line["event"] for line in lines if line["event"] != "step"]


@pytest.mark.slow
def test_law_61_when_one_process_hangs_all_end_after_a_limit(study: Make) -> None:
    assert HANG_SECONDS == 600, "as the how-to says"
    code, told = ended(study("llama", LORA, 2).job(), "hangs", 3)
    assert code != 0
    assert told == ["crash"], "one of them says why"


@pytest.mark.slow
def test_law_61_a_run_without_memory_on_one_device_can_be_made_with_fewer_tokens_at_once(
    study: Make, made: Callable[..., Sharded]
) -> None:
    full = study("llama", LORA, 2)
    assert ended(full.job(), "is full", 60) == (1, ["memory"])
    whole = made("llama", LORA, 1)
    code, told = ended(full.job().model_copy(update={"max_tokens": 5}), "is not ill", 60)
    assert (code, told[-1]) == (0, "done")
    for step, same in zip(full.result()["steps"], whole.result()["steps"], strict=True):
        assert relative(step["loss"], same["loss"]) < 2e-6


def test_law_61_the_memory_of_a_record_is_that_of_the_process_that_needed_most() -> None:
    class Others(Placement):
        def gathered(self, plain: Any) -> list[Any]:
            return [plain, {"peak_bytes": 9, "above_start_bytes": 4}]

    own = {"train": Memory(peak_bytes=7, above_start_bytes=5)}
    run: Any = SimpleNamespace(placement=Others(), meter=SimpleNamespace(memory=own.get))
    assert _largest_memory(run, "train") == Memory(peak_bytes=9, above_start_bytes=4)
    run.placement = Placement()
    assert _largest_memory(run, "train") == own["train"]
    assert _largest_memory(run, "load") is None

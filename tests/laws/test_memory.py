"""Law 32: every phase of a run has its own peak of memory, and every run its own process."""

import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_studies import FolderOf, SmallStudy, small_study

from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.lab.models.load import load_tuned
from tunewise.lab.run import context, story, training
from tunewise.lab.train import checkpoint
from tunewise.lab.train.loop import Loop, Step, train
from tunewise.lab.train.meters import MemoryMeter
from tunewise.records import Memory
from tunewise.spec import MachineSpec, RunSpec

MIB = 2**20
LARGE = 256 * MIB  # far above what a small model needs in any phase
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part of a process")


def hold_for_a_moment() -> None:
    """LARGE bytes come into memory and leave it."""
    torch.ones(LARGE, dtype=torch.uint8)


def peak(memory: Memory | None) -> int:
    assert memory is not None
    assert memory.peak_bytes is not None
    return memory.peak_bytes


def before(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with a large tensor for a moment before it."""

    def larger(*arguments: Any, **options: Any) -> Any:
        hold_for_a_moment()
        return function(*arguments, **options)

    return larger


def while_training(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def larger(*arguments: Any) -> Iterator[Any]:
        for step in function(*arguments):
            hold_for_a_moment()
            yield step

    return larger


# what needs the memory -> who calls it, when, and the figure that must show it, the others not
NEEDS = {
    "load_tokenizer": (story, before, None),
    "load_base": (context, before, "load"),
    "train": (training, while_training, "train"),
    "score": (context, before, "evaluate"),
    "write_tensors": (checkpoint, before, None),
    "load_tuned": (story, before, None),
}


@needs_linux
@pytest.mark.parametrize("name", NEEDS)
def test_law_32_what_a_phase_needs_is_in_its_own_figure_alone(
    name: str, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 32: 256 MiB that are needed while loading, training or scoring raise the peak of this phase and of no other;
    scoring is scoring also between two training steps, and writing or reading back weights is none of the three."""
    train = {"max_steps": 4, "batch_size": 4, "evaluations": 2}
    arms = {"full": {"method": "full", "rates": [1e-3]}}
    general = {"tokens": 200, "points": 2}
    study = small_study(tmp_path, folder_of("llama"), "sft", arms, train=train, looks=[1], forgetting=general)
    spec = last_run(study)
    owner, wrap, figure = NEEDS[name]
    monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    usage = study.run(spec).usage
    assert usage is not None
    peaks = {
        "load": peak(usage.load_memory),
        "train": peak(usage.train_memory),
        "evaluate": peak(usage.evaluate_memory),
    }
    lowest = min(peaks.values())
    for phase, found in peaks.items():
        if phase == figure:
            assert found - lowest > 0.9 * LARGE, phase
        else:
            assert found - lowest < 0.5 * LARGE, phase


@pytest.mark.parametrize("method", ["full", "lora"])
def test_law_32_the_trained_model_is_gone_when_the_saved_one_is_scored(
    method: str, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 32: the peak of scoring holds one model, and no optimizer state."""
    arms = {"arm": {"method": method, "rates": [1e-3]}}
    study = small_study(tmp_path, folder_of("llama"), "sft", arms, train={"max_steps": 2}, looks=[1])
    spec = last_run(study)
    trained: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def remember(model: torch.nn.Module, steps: Any, loop: Loop) -> Iterator[Step]:
        trained.extend([weakref.ref(model), weakref.ref(loop.optimizer), *map(weakref.ref, model.parameters())])
        return train(model, steps, loop)

    def count(*arguments: Any) -> torch.nn.Module:
        alive.append(sum(thing() is not None for thing in trained))
        return load_tuned(*arguments)

    monkeypatch.setattr(training, "train", remember)
    monkeypatch.setattr(story, "load_tuned", count)
    study.run(spec)
    assert len(trained) > 10
    assert alive == [0]


def last_run(study: SmallStudy) -> RunSpec:
    """The confirmation run of a study of one arm and one seed, all before it done."""
    while (waiting := study.waiting())[0].role != "confirm":
        for spec in waiting:
            study.run(spec)
    return waiting[0]


@needs_linux
@pytest.mark.slow
def test_law_32_a_run_does_not_inherit_the_peak_of_the_run_before(folder_of: FolderOf, tmp_path: Path) -> None:
    """Law 32: every run has a process of its own, so that a small run after a large one has the figures of a small run,
    the memory of its process before the model was loaded included."""
    study = small_study(
        tmp_path, folder_of("tiny"), "sft", {"full": {"method": "full", "rates": [1e-4]}}, rows=long_rows()
    )
    small = next(spec for spec in study.waiting() if spec.arm == "full")
    small = small.replace(train=small.train.replace(max_steps=1, batch_size=1))
    large = small.replace(train=small.train.replace(batch_size=16, micro_batch_tokens=4_000))
    with LocalExecutor() as executor:
        lab = Attempts(executor, study.ledger, MachineSpec())
        records = [lab.run(spec, study.data_folder) for spec in (small, large, small.replace(seed=7))]
    assert [record.message for record in records] == [None] * 3
    first, between, after = (peak(record.usage.train_memory) for record in records if record.usage)
    starts = [
        record.usage.load_memory.peak_bytes - (record.usage.load_memory.above_start_bytes or 0)
        for record in records
        if record.usage and record.usage.load_memory.peak_bytes
    ]
    assert between - first > 100 * MIB, "the run in between is large"
    assert abs(after - first) < 0.1 * (between - first)
    assert max(starts) - min(starts) < 0.1 * (between - first)


def long_rows() -> list[dict[str, str]]:
    return [{"prompt": f"number {n} of " * 20, "completion": f"the {n}th of forty. " * 20} for n in range(40)]


def test_law_32_a_peak_that_the_system_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 32: where the peak cannot be set back, that of a phase is not known: None, and not the whole process's."""

    def refused(path: Path, text: str) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    meter = MemoryMeter("cpu")
    with meter.phase("train"):
        hold_for_a_moment()
    assert meter.memory("train") == Memory(peak_bytes=None, above_start_bytes=None)
    assert meter.memory("evaluate") is None, "there was no such phase"

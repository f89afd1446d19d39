"""Law 25: a run that died at any step, given again, ends bit-identical to one that nothing happened to (on CPU)."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from builders import make_data_summary, make_inputs, make_run_spec, make_train_summary
from lab_fixtures import make_examples
from tunewise.lab.data.batching import Batch
from tunewise.lab.run.story import Run
from tunewise.lab.train.checkpoint import Checkpoints, StoppedError
from tunewise.records import EXAMPLES_SCHEMA, RunRecord, events
from tunewise.records.events import Event, Listener, unheard
from tunewise.spec import SamplesSpec, TrainSpec
from tunewise.storage.files import file_hash, files_below
from tunewise.storage.ledger import CHECKPOINT, Ledger

LABELS = ("negative", "neutral", "positive")
LENGTHS = {"train": (9, 4, 16, 5, 12, 7, 11), "valid": (9, 5, 8), "test": (7, 10, 6), "general": (12, 8)}
NUM_STEPS = 8  # 7 rows in steps of 2, twice
TRAIN = TrainSpec(epochs=2, batch_size=2, micro_batch_tokens=20, evaluations=4, warmup=0.4)
ADALORA = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 2, "deltaT": 1}
PROMPTS = {"num_virtual_tokens": 2}
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("sft", "gpt2", {"method": "full"}),  # which has dropout of its own
    "lora": ("sft", "llama", {"method": "lora", "rank": 2, "dropout": 0.3}),
    "adalora": ("sft", "llama", {"method": "peft", "type": "ADALORA", "options": ADALORA}),
    "prompt-tuning": (
        "sft",
        "llama",
        {"method": "peft", "type": "PROMPT_TUNING", "options": PROMPTS},
    ),
    "vera": ("sft", "llama", {"method": "peft", "type": "VERA"}),  # shared random matrices, in buffers
    "head": ("classify", "bert", {"method": "head"}),
}


class Killed(BaseException):
    """Stands for a kill -9: nothing of the package catches it."""


class Study:
    """A study folder with prepared data and one run of it."""

    def __init__(self, root: Path, model: Path, task: str, method: dict[str, Any], **changes: Any) -> None:
        self.ledger = Ledger(root)
        self.data = self.ledger.data_folder("data")
        self.data.mkdir(parents=True)
        for number, (split, lengths) in enumerate(LENGTHS.items()):
            rows = [asdict(e) for e in make_examples(lengths, seed=number, classify=task == "classify")]
            pq.write_table(pa.Table.from_pylist(rows, EXAMPLES_SCHEMA), self.data / f"{split}.parquet")
        has_general = None if task == "classify" else "g"
        inputs = make_inputs(general=has_general)
        labels = LABELS if task == "classify" else ()
        splits = (make_train_summary(len(LENGTHS["train"])),)
        summary = make_data_summary(task=task, labels=labels, inputs=inputs, model_type="any", splits=splits)
        (self.data / "data.json").write_text(summary.model_dump_json(), encoding="utf-8")
        is_class = task == "classify"
        content = {
            "arm": "arm",
            "model": str(model),
            "task": task,
            "method": method,
            "train": TRAIN.model_dump(),
            "learning_rate": 2e-2,
            "head_learning_rate": 2e-2 if is_class else None,
            "seed": 3,
            "samples": SamplesSpec(count=0).model_dump(),
            "forgetting_points": 0 if is_class else 3,
            "inputs": inputs.model_dump(),
        }
        self.spec = make_run_spec(**{**content, **changes})
        self.folder = self.ledger.run_folder(self.spec.run_id)

    def start(
        self,
        dies_at: int | None = None,
        seconds: float = 0,
        should_stop: Callable[[], bool] = lambda: False,
        hear: Listener = unheard,
    ) -> RunRecord:
        """The record; the run dies when it tells of step `dies_at`, before that step is evaluated and stored."""

        def listener(event: Event) -> None:
            hear(event)
            if isinstance(event, events.Step) and event.step == dies_at:
                raise Killed

        folder = self.ledger.begin(self.spec)
        Run(self.spec, folder, self.data, listener, Checkpoints(folder, seconds, should_stop)).execute()
        record = self.ledger.record(self.spec.run_id)
        assert record is not None
        return record

    def result(self) -> dict[str, Any]:
        """All that a run leaves, measured time and memory and how often it was continued apart."""
        record = self.ledger.record(self.spec.run_id)
        assert record is not None
        assert record.usage is not None
        steps = [{k: v for k, v in step.items() if k != "seconds"} for step in self.ledger.steps(self.spec.run_id)]
        counts = record.usage.num_tokens, record.usage.num_supervised_tokens, record.usage.saved_bytes
        hashes = {path.name: file_hash(path) for path in files_below(self.folder) if path.suffix == ".parquet"}
        measured = {"usage", "files", "environment", "warnings"}
        return {"record": record.model_dump(exclude=measured), "steps": steps, "counts": counts, "hashes": hashes}


Make = Callable[..., Study]
Whole = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> Make:
    """A study of one method, by its name in METHODS; each call in a fresh folder."""

    def make(name: str, **changes: Any) -> Study:
        task, model, method = {**METHODS, "plain": PLAIN}[name]
        return Study(tmp_path_factory.mktemp("study"), model_folder(model), task, method, **changes)

    return make


@pytest.fixture(scope="module")
def whole(study: Make) -> Whole:
    """The result of the same run when nothing happens to it."""
    known: dict[str, dict[str, Any]] = {}

    def result(name: str, **changes: Any) -> dict[str, Any]:
        key = json.dumps([name, changes])
        if key not in known:
            made = study(name, **changes)
            made.start(seconds=math.inf)
            known[key] = made.result()
        return known[key]

    return result


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in METHODS), ("lora", "bf16")], ids=lambda value: value
)
def test_law_25_a_run_that_dies_at_every_step_once_ends_as_if_it_had_not(
    study: Make, whole: Whole, name: str, precision: str
) -> None:
    broken = study(name, precision=precision)
    for step in range(1, NUM_STEPS + 1):
        with pytest.raises(Killed):
            broken.start(dies_at=step)
    record = broken.start()
    assert record.usage is not None
    assert record.usage.num_continued == NUM_STEPS - 1, "the first death came before the first checkpoint"
    assert broken.result() == whole(name, precision=precision)
    assert record.warnings == ()
    assert not (broken.folder / CHECKPOINT).exists()


def test_law_25_a_run_goes_back_over_an_evaluation_that_its_checkpoint_does_not_know(study: Make, whole: Whole) -> None:
    broken = study("lora", checkpoint="last")
    asked = iter([False, False, True])
    with pytest.raises(StoppedError, match="stopped after step 3, saved"):
        broken.start(should_stop=lambda: next(asked), seconds=math.inf)
    with pytest.raises(Killed):
        broken.start(dies_at=7, seconds=math.inf)
    kept = sorted(path.name.rsplit("-", 1)[0] for path in (broken.folder / CHECKPOINT).iterdir())
    assert kept == ["selected-2", "selected-6", "step-3"]
    broken.start(seconds=math.inf)
    assert broken.result() == whole("lora", checkpoint="last")


def test_law_25_without_a_checkpoint_a_run_begins_again(study: Make, whole: Whole) -> None:
    broken = study("full")
    with pytest.raises(Killed):
        broken.start(dies_at=7, seconds=math.inf)
    record = broken.start(seconds=math.inf)
    assert record.usage is not None
    assert record.usage.num_continued == 0
    assert broken.result() == whole("full")


# --- damaged checkpoints


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["a flipped bit", "a cut", "the selected weights", "the log", "no file"])
def test_law_25_a_damaged_checkpoint_is_named_and_what_it_held_is_computed_again(
    study: Make, whole: Whole, damage: str
) -> None:
    broken = study("lora")
    with pytest.raises(Killed):
        broken.start(dies_at=6)
    (checkpoint,) = (broken.folder / CHECKPOINT).glob("step-5-*")
    (selected,) = (broken.folder / CHECKPOINT).glob("selected-*")
    if damage == "a flipped bit":
        flip(checkpoint, checkpoint.stat().st_size // 2)
    elif damage == "a cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    elif damage == "the selected weights":
        flip(selected, -1)
    elif damage == "the log":
        flip(broken.folder / "steps.jsonl", 5)
    else:
        selected.unlink()
    record = broken.start()
    assert record.usage is not None
    assert record.usage.num_continued == 0
    (warning,) = record.warnings
    assert "A damaged checkpoint was skipped" in warning
    assert checkpoint.name in warning
    assert broken.result() == whole("lora")


def test_law_25_of_two_checkpoints_the_older_one_serves_where_the_newer_is_damaged(study: Make, whole: Whole) -> None:
    broken = study("lora")
    with pytest.raises(Killed):
        broken.start(dies_at=4)
    older = {path: path.read_bytes() for path in (broken.folder / CHECKPOINT).iterdir()}
    with pytest.raises(Killed):
        broken.start(dies_at=6)
    for path, content in older.items():
        path.write_bytes(content)
    (newer,) = (broken.folder / CHECKPOINT).glob("step-5-*")
    flip(newer, -1)
    record = broken.start()
    assert record.usage is not None
    assert record.usage.num_continued == 1, "the older one was written by the process that began"
    assert len(record.warnings) == 1
    assert broken.result() == whole("lora")


def test_law_25_a_checkpoint_that_names_weights_outside_its_folder_is_not_followed(study: Make) -> None:
    from tunewise.lab.train import checkpoint as module

    broken = study("lora")
    with pytest.raises(Killed):
        broken.start(dies_at=6)
    folder = broken.folder / CHECKPOINT
    (checkpoint,), (selected,) = folder.glob("step-5-*"), folder.glob("selected-*")
    outside = selected.rename(broken.ledger.folder.parent / selected.name)
    tensors = module.load_file(checkpoint)
    notes = json.loads(tensors[module.NOTES].numpy().tobytes())
    notes["training"]["selected_file"] = f"../../../../{outside.name}"
    assert (folder / notes["training"]["selected_file"]).is_file()
    tensors[module.NOTES] = module.bytes_as_tensor(json.dumps(notes).encode())
    checkpoint.unlink()
    module.write_tensors(folder, "step-5", tensors)
    assert "A damaged checkpoint was skipped" in broken.start().warnings[0]
    assert outside.is_file()


# --- when they are written, and what a full disk does


def test_law_25_checkpoints_are_written_when_it_is_time_and_the_last_one_stays_until_the_next_is_there(
    study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.lab.train import checkpoint as module

    now = iter(range(0, 10_000, 100))  # seconds: every look at the clock is 100 later
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    written = []
    write = module.write_tensors

    def noted(folder: Path, stem: str, tensors: Any) -> Path:
        if stem.startswith("step"):
            written.append((stem, [path.name.rsplit("-", 1)[0] for path in folder.glob("step-*")]))
        return write(folder, stem, tensors)

    monkeypatch.setattr(module, "write_tensors", noted)
    study("lora").start(seconds=150)
    assert [stem for stem, _ in written] == ["step-2", "step-4", "step-6", "step-8"]
    assert [there for _, there in written] == [[], ["step-2"], ["step-4"], ["step-6"]]


def test_law_25_a_disk_without_room_for_checkpoints_costs_a_warning_and_nothing_else(
    study: Make, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.lab.train import checkpoint as module

    tight = study("lora")

    class Usage:
        free = 1000

    with monkeypatch.context() as full:
        full.setattr(module.shutil, "disk_usage", lambda path: Usage)
        record = tight.start()
        with pytest.raises(StoppedError, match="stopped after step 1, which could not be saved"):
            study("lora").start(should_stop=lambda: True)
    (warning,) = record.warnings
    assert warning.startswith("A checkpoint could not be written")
    assert tight.result() == whole("lora")


# --- a machine with little memory

ROOMY = TRAIN.replace(micro_batch_tokens=64).model_dump()  # the two rows of a step at once
PLAIN = ("sft", "llama", {"method": "lora", "rank": 2})  # without dropout, whose draws depend on the cut


class NoMemory:
    """Stands for a device on which batches of more than `max_tokens` do not fit from some optimizer step on."""

    def __init__(self, max_tokens: int, first_step: int) -> None:
        self.max_tokens, self.first_step, self.refused = max_tokens, first_step, 0

    def limits(self, patch: pytest.MonkeyPatch) -> None:
        """Training and scoring are refused what does not fit."""
        from tunewise.lab.evaluate import score
        from tunewise.lab.train import loop

        def refusing(work: Callable[..., Any]) -> Callable[..., Any]:
            def limited(model: torch.nn.Module, batch: Batch, *more: Any) -> Any:
                if self.is_tight and batch.input_ids_BT.numel() > self.max_tokens and len(batch.rows) > 1:
                    self.refused += 1
                    result = work(model, batch, *more)  # as far as a part of the gradient, which must not stay
                    raise torch.OutOfMemoryError(f"of {result}")
                return work(model, batch, *more)

            return limited

        patch.setattr(loop, "add_gradient", refusing(loop.add_gradient))
        patch.setattr(score, "example_losses", refusing(score.example_losses))

    is_tight = False

    def hear(self, event: Event) -> None:
        assert isinstance(event, events.Step)
        self.is_tight = event.step + 1 >= self.first_step


def numbers_of(broken: Study) -> list[float]:
    """Loss and length of the gradient (before it is clipped) of every step, and the losses on valid."""
    record = broken.ledger.record(broken.spec.run_id)
    assert record is not None
    steps = [(step["loss"], step["gradient_norm"]) for step in broken.ledger.steps(broken.spec.run_id)]
    return [*(number for step in steps for number in step), *(evaluation.nll for evaluation in record.evaluations)]


def test_law_01_a_step_that_finds_no_memory_is_repeated_in_smaller_parts_to_the_same_result(
    study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = study("plain", train=ROOMY)
    record = undisturbed.start(seconds=math.inf)
    assert record.usage is not None
    assert record.usage.micro_batch_tokens is None
    tight = study("plain", train=ROOMY)
    device = NoMemory(max_tokens=14, first_step=3)
    device.limits(monkeypatch)
    record = tight.start(seconds=math.inf, hear=device.hear)
    assert device.refused
    assert record.usage is not None
    assert record.usage.micro_batch_tokens is not None
    assert record.usage.micro_batch_tokens < 20
    assert numbers_of(tight) == pytest.approx(numbers_of(undisturbed), rel=1e-5)
    counts = [broken.result()["counts"] for broken in (tight, undisturbed)]
    assert counts[0] == counts[1]


def test_law_01_a_run_that_continues_keeps_to_the_memory_that_it_found(
    study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = study("plain", train=ROOMY)
    device = NoMemory(max_tokens=14, first_step=2)
    with monkeypatch.context() as patch:
        device.limits(patch)
        with pytest.raises(Killed):
            tight.start(dies_at=6, hear=device.hear)
    record = tight.start()
    assert record.usage is not None
    assert record.usage.num_continued == 1
    assert record.usage.micro_batch_tokens is not None


def test_law_01_a_single_example_that_finds_no_memory_is_said_so(study: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewise.lab.train import loop

    def refused(*of: Any) -> None:
        raise torch.OutOfMemoryError("not even one")

    monkeypatch.setattr(loop, "add_gradient", refused)
    with pytest.raises(torch.OutOfMemoryError, match="not even one"):
        study("lora").start()

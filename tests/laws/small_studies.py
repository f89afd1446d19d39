"""Whole studies that run in the test's own process, stage by stage as the product runs them, on forty rows."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fake_executor import FakeExecutor
from tunewise.desk.protocol import resolve, schedule
from tunewise.errors import TunewiseError
from tunewise.executors.base import Job, PrepareJob, RunJob
from tunewise.lab.prepare import prepare
from tunewise.lab.run.story import Run
from tunewise.lab.train.checkpoint import Checkpoints
from tunewise.records import RunRecord, events
from tunewise.records.events import Event, unheard
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.ledger import Ledger

FolderOf = Callable[[str], Path]
SPLITS = {"train": (0, 24), "valid": (24, 32), "test": (32, 40)}


def rows_of(task: str) -> list[dict[str, str]]:
    """Forty rows in the words of the small tokenizer, no input twice."""
    if task == "classify":
        return [{"text": f"w{4 + n} w{20 + n % 3} w{30 + n % 7}", "label": f"class {n % 3}"} for n in range(40)]
    return [
        {"prompt": f"w{4 + n} w{20 + n % 3}", "completion": f"w{30 + n % 7} w{40 + n % 5} w{9 + n}"} for n in range(40)
    ]


class SmallStudy:
    """A study in its folder, its data prepared."""

    def __init__(self, root: Path, asked: StudySpec) -> None:
        self.ledger = Ledger(root / "study")
        self.ledger.create()
        self.data_folder = self.ledger.data_folder(prepare(asked, self.ledger.folder / "data"))
        self.data = self.ledger.data_summary()
        self.study = resolve.resolve(asked, self.data)
        self.ledger.store_study(self.study)

    def waiting(self) -> list[RunSpec]:
        """The runs that can be started now."""
        return schedule.next_runs(self.study, self.data, self.records(), ())

    def run(self, spec: RunSpec) -> RunRecord:
        """The record of a run, as stored."""
        Run(spec, self.ledger.begin(spec), self.data_folder, unheard).execute()
        record = self.ledger.record(spec.run_id)
        assert record is not None
        assert record.status == "done", record.message
        return record

    def finish(self, order: Callable[[list[RunSpec]], Sequence[RunSpec]] = lambda waiting: waiting) -> "SmallStudy":
        """Run what is missing; `order` says in which order those run that can be started."""
        while waiting := self.waiting():
            for spec in order(waiting):
                self.run(spec)
        return self

    def records(self) -> list[RunRecord]:
        """The current records."""
        return schedule.current(self.study, self.data, self.ledger.records())


def small_study(root: Path, model: Path | str, task: str, arms: dict[str, Any], **changes: Any) -> SmallStudy:
    """A study of forty rows, `changes["rows"]` or our own; other `changes` are keys of the study file."""
    root.mkdir(parents=True, exist_ok=True)
    rows = changes.pop("rows", None) or rows_of(task)
    files = {split: str(root / f"{split}.jsonl") for split in SPLITS}
    for split, (first, last) in SPLITS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows[first:last])
        Path(files[split]).write_text(text, encoding="utf-8")
    content: dict[str, Any] = {
        "name": "law",
        "model": str(model),
        "data": files,
        "arms": arms,
        "train": {"max_steps": 24, "batch_size": 4, "evaluations": 1, "head_learning_rate": 0.01},
        "tuning": {"rates": 1, "cap": 1},
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
        "machine": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    return SmallStudy(root, StudySpec.model_validate({**content, **changes}))


def do_here(job: Job) -> Iterator[Event]:
    """Does a job in this process, as the children of the server do it; a study goes on without a plan."""
    match job:
        case PrepareJob():
            yield events.Prepared(key=prepare(job.study, job.root))
        case RunJob():
            told: list[Event] = []
            spec = RunSpec.model_validate_json((job.folder / "spec.json").read_text(encoding="utf-8"))
            checkpoints = Checkpoints(job.folder, job.checkpoint_seconds)
            Run(spec, job.folder, job.data, told.append, checkpoints).execute(job.max_tokens)
            yield from told
        case _:
            raise TunewiseError("a study goes on without a plan")


def executor_here(held: Sequence[int] = ()) -> FakeExecutor:
    """Stands for the local executor: does every job in this process."""
    return FakeExecutor(do_here)


def first_trial(root: Path, model: Path, task: str, method: dict[str, Any], **changes: Any) -> RunRecord:
    """The record of the first trial of an arm, 24 steps of 4 rows."""
    study = small_study(root, model, task, {"arm": {"learning_rate": 1e-3, **method}}, **changes)
    return study.run(next(spec for spec in study.waiting() if spec.arm == "arm"))

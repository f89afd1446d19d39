"""Studies without a model: a lab that answers with losses, and the driver's loop around the schedule."""

import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from builders import make_data_summary, make_inputs
from tunewise.desk.protocol import centres, resolve, schedule
from tunewise.records import DataSummary, Evaluation, RunRecord, SplitSummary
from tunewise.spec import RunSpec, StudySpec

ROWS = 1600
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8, "targets": "qkv"},
    "lora-r16": {"method": "lora", "rank": 16},
}
EXISTING = {"theirs": {"method": "existing", "path": "adapter"}}
Lab = Callable[[RunSpec], RunRecord]


def data_summary(task: str = "sft", **changes: Any) -> DataSummary:
    split = SplitSummary(
        split="train",
        source="train.jsonl",
        rows_read=ROWS,
        rows=ROWS,
        units=ROWS,
        tokens=1,
        supervised_tokens=1,
        truncated_rows=0,
        truncated_tokens=0,
        duplicates_dropped=0,
    )
    content: dict[str, Any] = {
        "key": "k",
        "task": task,
        "labels": ("a", "b") if task == "classify" else (),
        "splits": (split.model_dump(),),
        "inputs": make_inputs(general="g", versions={"torch": "2.13"}),
        "existing": {"theirs": "e" * 64},
        "hidden_size": 500,
        "num_new_parameters": 7 if task == "classify" else 0,
        "threads": 2,
    }
    return make_data_summary(**{**content, **changes})


def study(data: DataSummary, **changes: Any) -> StudySpec:
    """A resolved study."""
    content = {"name": "s", "data": {"train": "train.jsonl"}, "arms": ARMS, "looks": [3], **changes}
    return resolve.resolve(StudySpec.model_validate(content), data)


SFT, CLASSIFY = data_summary("sft"), data_summary("classify")


def record(spec: RunSpec, loss: float | None, status: str = "done") -> RunRecord:
    """A finished run; `loss` None: nothing was evaluated."""
    evaluations = (
        (Evaluation(step=0, nll=12.0, accuracy=None),)
        if spec.role == "base" and status == "done"
        else ()
        if loss is None
        else (Evaluation(step=5, nll=loss + 9, accuracy=None), Evaluation(step=9, nll=loss, accuracy=None))
    )
    return RunRecord(
        run_id=spec.run_id,
        spec=spec,
        status=status,
        evaluations=evaluations,
        selected_step=None if loss is None else 9,
    )


def bowl(asked: StudySpec, data: DataSummary, shift: float = 0.0) -> Lab:
    """A lab in which every arm is best `shift` grid places above its centre and diverges 2.5 places above that."""

    def run(spec: RunSpec) -> RunRecord:
        if spec.learning_rate is None:
            return record(spec, None)
        middle = centres.centre(asked, data, asked.arms[spec.arm])
        places = math.log(spec.learning_rate / middle, asked.tuning.spacing) - shift
        if places > 2.5:
            return record(spec, None, "diverged")
        noise = random.Random(spec.run_id).random() / 1000
        return record(spec, 2 + 0.1 * places**2 + noise)

    return run


def next_runs(
    asked: StudySpec, data: DataSummary, records: Sequence[RunRecord], undecided: Collection[str] = ()
) -> list[RunSpec]:
    """What the driver asks, the way the driver asks it."""
    return schedule.next_runs(asked, data, schedule.current(asked, data, records), [undecided])


def drive(
    asked: StudySpec,
    data: DataSummary,
    lab: Lab,
    records: Sequence[RunRecord] = (),
    undecided: Callable[[Sequence[RunRecord]], Collection[str]] = lambda records: (),
) -> list[RunRecord]:
    """All records of the study at its end, those given among them. No run is made twice, but one that was lost."""
    done = {r.run_id: r for r in records}
    while waiting := next_runs(asked, data, list(done.values())) or next_runs(
        asked, data, list(done.values()), undecided(schedule.current(asked, data, list(done.values())))
    ):
        assert len({run.run_id for run in waiting}) == len(waiting), "a run twice in one wave"
        for spec in waiting:
            before = done.pop(spec.run_id, None)
            assert before is None or (before.status, before.attempts) == ("failed", 1), "a run that is already there"
            done[spec.run_id] = lab(spec).replace(attempts=1 if before is None else 2)
        assert len(done) < 500, "the study never ends"
    return list(done.values())


def ids(records: Sequence[RunRecord]) -> set[str]:
    return {r.run_id for r in records}

"""What was planned stands beside what was measured."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from planned_study import PEAK, SPEED, arm_plan, study_plan
from rich.console import Console

from fake_executor import FakeExecutor
from tunewise.commands import planning
from tunewise.desk.planning import estimates
from tunewise.desk.protocol import resolve
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.terminal.check import expected
from tunewise.desk.report.terminal.text import print_report
from tunewise.errors import StudyError, TunewiseError
from tunewise.executors.base import Job, ProbeJob
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.records.plan import ArmPlan, StudyPlan
from tunewise.storage.ledger import Ledger

MIB = 2**20
FAST = SPEED.replace(step_seconds=0.1, peak_above_start_bytes=100 * MIB)


def plan_of(ledger: Ledger, **arms: ArmPlan) -> StudyPlan:
    """Every arm of the study planned as `FAST`, `arms` apart; stored beside its data."""
    study, data = ledger.study(), ledger.data_summary()
    plans = {name: arms.get(name, arm_plan(speed=FAST)) for name in study.arms}
    plan = study_plan({"num_rows": 1000, "num_steps": 126, "splits": data.splits}, **plans)
    ledger.data_folder(data.key).mkdir(parents=True, exist_ok=True)
    ledger.store_plan(data.key, resolve.resolve(study, data), plan)
    return plan


def test_every_planned_arm_has_its_figures_and_the_study_its_seconds(make_study: Callable[..., Ledger]) -> None:
    ledger = make_study()
    assert build_report(ledger).arm("full").planned is None
    plan = plan_of(ledger, full=arm_plan(step=None))
    report = build_report(ledger)
    full, lora = report.arm("full").planned, report.arm("lora-r8").planned
    assert full is not None
    assert (full.step_bytes, full.above_start_bytes, full.train_seconds) == (None, None, None)
    assert lora is not None
    assert (lora.step_bytes, lora.above_start_bytes) == (PEAK.total, 100 * MIB)
    assert lora.train_seconds == pytest.approx(126 * 0.1)
    assert report.study.planned_seconds is None, "the speed of an arm is not known"
    plan = plan_of(ledger)
    assert build_report(ledger).study.planned_seconds == estimates.study_seconds(ledger.study(), plan) is not None


def test_the_reason_why_an_arm_has_no_plan_ends_with_one_period(make_study: Callable[..., Ledger]) -> None:
    ledger = make_study()
    note = "this step cannot be traced: expected BF16, but got mat_b.dtype=torch.float32."
    plan = plan_of(ledger, full=arm_plan(step=None, note=note))
    assert next(iter(expected(ledger.study(), plan))) == f"Planned, full: {note}"


def test_the_search_before_a_rank_was_told_is_in_the_planned_seconds(make_study: Callable[..., Ledger]) -> None:
    ledger = make_study(study={"arms": {"full": {"method": "full"}, "lora": {"method": "lora", "rank": "auto"}}})
    plan = plan_of(ledger)
    found = build_report(ledger).study
    assert found.planned_seconds == estimates.study_seconds(ledger.study(), plan) is not None
    assert found.finished_runs == len(ledger.records())


def test_terminal_and_page_show_the_measured_as_a_multiple_of_the_planned(make_study: Callable[..., Ledger]) -> None:
    ledger = make_study()
    plan_of(ledger)
    report = build_report(ledger)
    arm = report.arm("full")
    assert arm.train_seconds is not None
    assert arm.peak_memory_above_start_bytes is not None
    times = (arm.train_seconds / 12.6, arm.peak_memory_above_start_bytes / MIB / 100)
    said = StringIO()
    print_report(report, Console(file=said, width=400), Path("study"))
    page = to_html(report, ())
    for words in ("12.6 s", "100 MiB", *(f"measured {found:.2f}×" for found in times)):
        assert words in said.getvalue(), words
        assert words in page, words
    assert "planned" not in to_html(build_report(make_study()), ())


def test_a_plan_of_another_training_says_nothing_and_one_of_another_search_still_counts(
    make_study: Callable[..., Ledger],
) -> None:
    ledger = make_study()
    plan_of(ledger)
    study, key = ledger.study(), ledger.data_summary().key
    assert ledger.plan(key, study.replace(tuning={"rates": 1, "cap": 1}, looks=(4,))) is not None
    assert ledger.plan(key, study.replace(train={"epochs": 9})) is None
    assert ledger.plan("another", study) is None


class Lab(FakeExecutor):
    """Counts what it is asked to plan."""

    def __init__(self, plan: Callable[[], StudyPlan]) -> None:
        super().__init__(self._answer)
        self.plan = plan
        self.asked: list[str] = []

    def _answer(self, job: Job) -> Iterator[Event]:
        self.asked.append(job.arm if isinstance(job, ProbeJob) else "plan")
        yield events.Probed(speed=FAST) if isinstance(job, ProbeJob) else events.Planned(plan=self.plan())


def test_a_study_is_planned_once_and_an_arm_that_cannot_be_followed_is_not_probed(
    make_study: Callable[..., Ledger],
) -> None:
    ledger = make_study()
    study, data = ledger.study(), ledger.data_summary()
    ledger.data_folder(data.key).mkdir(parents=True, exist_ok=True)
    lab = Lab(lambda: study_plan(full=arm_plan(step=None), lora=arm_plan()))
    first, second = (planning.planned(lab, ledger, study, data) for _ in range(2))
    assert first == second
    assert lab.asked == ["plan", "lora"]


def test_a_damaged_plan_is_refused_by_the_report_and_made_again_by_the_driver(
    make_study: Callable[..., Ledger],
) -> None:
    ledger = make_study()
    plan = plan_of(ledger)
    (path,) = ledger.folder.glob("data/*/plan-*.json")
    path.write_text(
        path.read_text(encoding="utf-8").replace('"memory_bytes": 2', '"memory_bytes": 3'), encoding="utf-8"
    )
    with pytest.raises(StudyError, match=rf"{path} is damaged or of another version\. Delete it, or run `tunewise com"):
        build_report(ledger)
    study, data = ledger.study(), ledger.data_summary()
    assert planning.planned(Lab(lambda: plan), ledger, study, data) is not None
    assert build_report(ledger).arm("full").planned is not None


def test_the_plan_of_automatic_micro_batches_is_found_again_by_the_number_that_it_chose(
    make_study: Callable[..., Ledger],
) -> None:
    ledger = make_study()
    study, data = ledger.study(), ledger.data_summary()
    asked = study.replace(train={**study.train.model_dump(), "micro_batch_tokens": "auto"})
    ledger.data_folder(data.key).mkdir(parents=True, exist_ok=True)
    lab = Lab(lambda: study_plan(full=arm_plan()).replace(micro_batch_tokens=777))
    found = planning.planned(lab, ledger, asked, data)
    resolved = settled(asked, found)
    assert resolved.train.micro_batch_tokens == 777
    assert ledger.plan(data.key, resolved) == ledger.plan(data.key, asked) == found
    assert lab.asked == ["plan", "full"]


def test_a_study_goes_on_where_planning_fails(make_study: Callable[..., Ledger]) -> None:
    def fail() -> StudyPlan:
        raise TunewiseError("killed")

    ledger = make_study()
    found = planning.planned(Lab(fail), ledger, ledger.study(), ledger.data_summary())
    assert found is None

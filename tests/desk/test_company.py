"""Laws of times on a shared machine: who ran beside whom, and which runs' times are compared."""

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builders import make_run_spec
from desk.conftest import StudyWriter, data_summary, environment, study_spec
from tunewise.desk.analysis.company import (
    company,
    is_same_device,
    is_same_machine,
    overlap_seconds,
    overlapping,
    same_company,
)
from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.machine import busy_machine, overlapping_runs, unlike_company
from tunewise.desk.protocol import resolve
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.state import StudyState
from tunewise.records import Memory, RunRecord, Usage
from tunewise.storage.ledger import Ledger

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NO_MEMORY = Memory(peak_bytes=None, above_start_bytes=None)


def run(seed: int, start: float, end: float, **where: Any) -> RunRecord:
    """A run from minute `start` to minute `end`."""
    spec = make_run_spec(seed=seed, role="confirm")
    usage = Usage(
        load_seconds=1, train_seconds=60 * (end - start), evaluate_seconds=1, num_tokens=1, num_supervised_tokens=1,
        load_memory=NO_MEMORY, train_memory=None, evaluate_memory=NO_MEMORY, saved_bytes=None, others_share=0.5,
        started=BEGIN + timedelta(minutes=start), ended=BEGIN + timedelta(minutes=end),
    )  # fmt: skip
    here = environment(**{"machine": "aaaaaaaa", **where})
    return RunRecord(run_id=spec.run_id, spec=spec, status="done", usage=usage, environment=here)


def test_the_company_of_a_run_is_the_mean_number_of_others_on_its_machine() -> None:
    runs = [run(1, 0, 10), run(2, 0, 10), run(3, 9, 20), run(4, 0, 20, machine="bbbbbbbb"), run(5, 20, 30)]
    assert [company(of, runs) for of in runs] == [1, 1, 0, 0, 0]
    assert company(runs[0], [*runs, run(6, 2, 9)]) == 2
    unknown = runs[0].replace(usage=None)
    assert (company(unknown, runs), company(runs[1], [unknown])) == (0, 0)


def test_machines_and_gpus_are_told_apart_by_their_identity_and_old_records_by_their_name() -> None:
    one, two = run(1, 0, 1, gpu="11111111"), run(2, 0, 1, gpu="22222222")
    assert is_same_machine(one, two)
    assert not is_same_device(one, two)
    assert is_same_device(one, run(3, 0, 1, gpu="11111111"))
    assert is_same_device(one, run(3, 0, 1)), "a run on the cores disturbs them all"
    assert not is_same_machine(one, run(3, 0, 1, machine="bbbbbbbb"))
    assert is_same_machine(one, run(3, 0, 1, machine=None))
    assert not is_same_machine(one, run(3, 0, 1, machine=None, device_name="another"))


def test_overlapping_pairs_are_those_of_every_two_runs() -> None:
    rng = random.Random(0)
    times = [(start, start + rng.randrange(6)) for start in (rng.randrange(20) for _ in range(40))]
    runs = [run(seed, *time) for seed, time in enumerate(times, start=1)]
    runs.insert(7, runs[0].replace(usage=None))
    assert overlapping(runs) == [pair for pair in itertools.combinations(runs, 2) if overlap_seconds(*pair) > 0]


def test_times_are_compared_between_runs_with_as_many_others_beside_them() -> None:
    alone, beside = [run(seed, 10 * seed, 10 * seed + 9) for seed in (1, 2)], [run(3, 50, 59), run(4, 50, 59)]
    every = [*alone, *beside]
    assert same_company({"a": alone, "b": alone}, every) == {"a": alone, "b": alone}
    assert same_company({"a": beside, "b": beside}, every) == {"a": beside, "b": beside}
    assert same_company({"a": [alone[0], *beside], "b": [*alone, beside[0]]}, every) == {
        "a": [alone[0]],
        "b": alone,
    }
    assert same_company({"a": alone, "b": beside}, every) == {"a": [], "b": []}
    assert same_company({"a": alone, "b": []}, every) == {"a": alone, "b": []}


@pytest.fixture
def shared(make_study: StudyWriter) -> Ledger:
    """Every confirmation of full is beside one of lora-r8, and those of lora-r16-all are alone."""
    place = {"full": 0, "lora-r8": 0, "lora-r16-all": 5}

    def change(record: RunRecord) -> RunRecord:
        assert record.usage is not None
        order = 100 * (record.spec.role == "confirm") + 10 * (record.spec.seed % 1000) + place.get(record.spec.arm, 9)
        start = BEGIN + timedelta(minutes=order)
        times = {"started": start, "ended": start + timedelta(minutes=4)}
        return record.replace(usage=record.usage.replace(**times).model_dump())

    return make_study(change=change)


def test_the_report_shows_no_times_where_they_do_not_compare_and_says_why(shared: Ledger) -> None:
    report = build_report(shared)
    ids = {warning.id for warning in report.warnings}
    assert {"timed-runs-overlapped", "times-not-comparable"} <= ids
    for arm in report.arms:
        assert arm.train_seconds is None
        assert arm.step_seconds is None
        assert arm.ratio_to_full.get("train_seconds") is None
    assert report.arms[1].trainable_parameters is not None


def test_runs_on_gpus_of_their_own_are_only_noted() -> None:
    def found(*records: RunRecord) -> list[tuple[str, str]]:
        case = Case(resolve.resolve(study_spec(), data_summary()), data_summary(), records)
        return [(finding.severity, finding.evidence.partition(",")[0]) for finding in overlapping_runs(case)]

    assert found(run(1, 0, 5, gpu="11111111"), run(2, 0, 5, gpu="22222222")) == [("note", "1 overlapping pair")]
    assert found(run(1, 0, 5), run(2, 0, 5)) == [("warns", "1 overlapping pair")]
    assert found(run(1, 0, 5), run(2, 5, 9)) == []


def test_a_study_on_a_free_machine_has_none_of_these_findings(make_study: StudyWriter) -> None:
    state = StudyState.read(make_study())
    case = Case(state.study, state.data, state.records)
    assert [*overlapping_runs(case), *unlike_company(case), *busy_machine(case)] == []

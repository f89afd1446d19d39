"""What a study declared stands before its first confirmation run; a report of anything else says no word."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from desk.conftest import ARMS, FakeLab, data_summary, prepared, run_of, study_spec, unchanged
from fake_executor import FakeExecutor
from tunewise.commands import compare as driver
from tunewise.desk.protocol import resolve
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.views.view import Report
from tunewise.desk.study.declarations import declarations
from tunewise.errors import StudyError, TunewiseError
from tunewise.executors.base import Job, PrepareJob, RunJob
from tunewise.records import DataSummary, RunRecord
from tunewise.records.events import Event
from tunewise.spec import RunSpec
from tunewise.storage.ledger import Ledger

Compare = Callable[..., Ledger]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The driver itself, with a lab that answers from a seed; `change` alters every record before it is stored."""
    monkeypatch.setattr("tunewise.storage.disk.sync", lambda path: None)
    monkeypatch.setattr("tunewise.commands.report.write_report", build_report)
    monkeypatch.setattr("tunewise.commands.deliver.write_card", lambda ledger, study, record: None)

    def run(
        before: Callable[[RunSpec, Ledger], None] = lambda spec, ledger: None,
        change: Callable[[RunRecord], RunRecord] = unchanged,
        data: DataSummary | None = None,
        again: bool = False,
        **changes: Any,
    ) -> Ledger:
        summary = data or data_summary()

        def answer(job: Job) -> Iterator[Event]:
            match job:
                case PrepareJob():
                    yield prepared(job, summary)
                case RunJob():
                    spec, ledger = run_of(job)
                    before(spec, ledger)
                    lab = FakeLab(ledger, resolve.resolve(study_spec(**changes), summary), summary, change)
                    yield from lab.answer(job)
                case _:
                    raise TunewiseError("it has no model")

        monkeypatch.setattr(driver, "LocalExecutor", lambda held: FakeExecutor(answer))
        result = driver.compare(study_spec(**changes), tmp_path / "study", again=again)
        return Ledger(result.folder)

    return run


def words(report: Report) -> set[str]:
    return {verdict.outcome for verdict in report.verdicts}


def test_the_declarations_stand_in_the_folder_before_the_first_confirmation_run(compare: Compare) -> None:
    seen: list[tuple[str, bool]] = []
    ledger = compare(lambda spec, ledger: seen.append((spec.role, ledger.declared() is not None)))
    assert {role for role, _ in seen} == {"base", "tune", "confirm"}
    assert all(is_declared == (role == "confirm") for role, is_declared in seen)
    declared = ledger.declared()
    assert declared is not None
    assert declared["margin"] == {"absolute": 0.02, "share_of_gain": 0.05}
    assert (declared["metric"], declared["looks"], declared["data"]) == ("nll", [3], "d" * 64)
    assert len(declared["arms"]) == len(ARMS)
    report = build_report(ledger)
    assert report.declarations_changed == ()
    assert words(report) - {"undecided"}, "there is a word to take away"


WIDER: dict[str, Any] = {"margin": "0.5"}


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        (WIDER, ("margin",)),
        ({"looks": [2]}, ("looks",)),
        ({"looks": [3, 5]}, ("looks",)),
        ({"arms": {**ARMS, "extra": {"method": "lora", "rank": 4}}}, ("arms",)),
        ({"arms": {name: arm for name, arm in ARMS.items() if name != "lora-r8"}}, ("arms",)),
        ({**WIDER, "looks": [4]}, ("margin", "looks")),
    ],
)
def test_what_changed_after_the_first_test_score_takes_every_word_and_leaves_the_intervals(
    compare: Compare, changes: dict[str, Any], changed: tuple[str, ...]
) -> None:
    compare()
    report = build_report(compare(**changes))
    assert report.declarations_changed == changed
    assert words(report) == {"undecided"}
    for verdict in report.verdicts:
        assert verdict.reason == "declarations changed"
        assert verdict.low is not None
        assert "changed after the first test score" in verdict.sentence
    assert report.headline.startswith("Exploratory, no verdict")
    assert report.recommended_arm is None
    assert report.warnings[0].id == "declarations-changed"
    assert report.warnings[0].evidence == "changed: " + ", ".join(changed)


def test_other_test_data_after_the_first_test_score_is_exploratory_too(compare: Compare) -> None:
    compare()
    other = data_summary()
    other = other.replace(inputs=other.inputs.replace(data="o" * 64))
    assert build_report(compare(data=other, again=True)).declarations_changed == ("data",)


def test_a_report_of_an_edited_study_file_is_exploratory_without_a_run(compare: Compare) -> None:
    ledger = compare()
    ledger.store_study(ledger.study().replace(**WIDER))
    assert words(build_report(ledger)) == {"undecided"}


def test_another_cost_to_recommend_by_is_another_declaration(compare: Compare) -> None:
    ledger = compare()
    ledger.store_study(ledger.study().replace(cost="saved_bytes"))
    assert build_report(ledger).declarations_changed == ("cost",)


def test_who_goes_back_to_what_was_declared_has_the_words_again(compare: Compare) -> None:
    before = words(build_report(compare()))
    compare(**WIDER)
    assert words(build_report(compare())) == before


@pytest.mark.parametrize("changes", [WIDER, {"looks": [4]}, {"arms": {**ARMS, "extra": {"method": "lora", "rank": 4}}}])
def test_until_the_first_test_score_everything_may_change(compare: Compare, changes: dict[str, Any]) -> None:
    class InterruptedStudyError(Exception):
        pass

    def stop(spec: RunSpec, ledger: Ledger) -> None:
        if spec.role == "confirm":
            raise InterruptedStudyError

    with pytest.raises(InterruptedStudyError):
        compare(stop)
    ledger = compare(**changes)
    assert build_report(ledger).declarations_changed == ()


def test_names_and_centres_declare_nothing(compare: Compare) -> None:
    compare()
    renamed = {{"lora-r8": "small"}.get(name, name): arm for name, arm in ARMS.items()}
    renamed["full"] = {"method": "full", "learning_rate": 1.234e-4}
    assert declarations(resolve.resolve(study_spec(arms=renamed), data_summary()), data_summary()) == declarations(
        resolve.resolve(study_spec(), data_summary()), data_summary()
    )


def test_altered_declarations_are_refused(compare: Compare) -> None:
    ledger = compare()
    path = ledger.folder / "declarations.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["declared"]["looks"] = [5]
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(StudyError, match="not what this study declared"):
        build_report(ledger)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="not what this study declared"):
        build_report(ledger)


def test_the_driver_repeats_a_lost_run_once_and_again_when_asked_anew(compare: Compare) -> None:
    tries: list[str] = []

    def lose(record: RunRecord) -> RunRecord:
        is_it = (record.spec.arm, record.spec.role, record.spec.seed) == ("lora-r8", "confirm", 2)
        return record.replace(status="failed", message="out of memory") if is_it else record

    def note(spec: RunSpec, ledger: Ledger) -> None:
        tries.append(spec.run_id)

    def seeds(ledger: Ledger) -> tuple[int, ...]:
        return build_report(ledger).study.seeds

    assert seeds(compare(note, lose)) == (1, 3)
    assert len(tries) == len(set(tries)) + 1
    tries.clear()
    assert seeds(compare(note)) == (1, 2, 3)
    assert len(tries) == 1


def test_another_metric_to_be_judged_by_is_another_declaration() -> None:
    data = data_summary("classify")
    by_default, by_loss = (
        declarations(resolve.resolve(study_spec(**changes), data), data) for changes in ({}, {"primary": "nll"})
    )
    assert by_default["metric"] == "accuracy"
    assert by_loss["metric"] == "nll"

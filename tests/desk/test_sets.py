"""Several datasets: a study each with seeds of its own, and one verdict on their mean."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from desk.conftest import FakeLab, data_summary, prepared, run_of, study_spec, unchanged
from fake_executor import FakeExecutor
from tunewise.commands import compare as driver
from tunewise.commands import sets as commands
from tunewise.commands.sets import SetsResult, compare_sets, report_sets
from tunewise.desk.protocol import resolve
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.compose.sets import build_sets_report
from tunewise.desk.report.terminal.sets import print_sets
from tunewise.desk.statistics.mean_of_sets import MeanOfSets
from tunewise.desk.statistics.paired import Contrast
from tunewise.errors import SpecError, StudyError, TunewiseError
from tunewise.executors.base import Job, PrepareJob, RunJob
from tunewise.records import DataSummary
from tunewise.records.events import Event
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger

NAMES = ("a", "b", "c", "d", "e")


def contrast(rng: np.random.Generator, mean: float) -> Contrast:
    table = mean + 0.01 * rng.standard_normal((3, 1)) + 0.1 * rng.standard_normal((3, 40))
    return Contrast(float(table.mean()), table, np.array([f"u{i:02d}" for i in range(40)], dtype=object))


def of_means(*means: float) -> MeanOfSets:
    rng = np.random.default_rng(3)
    return MeanOfSets.of([contrast(rng, mean) for mean in means])


# --- the interval


def test_the_interval_of_new_sets_is_the_t_interval_over_their_means() -> None:
    found = of_means(0.0, 0.3, -0.2, 0.5, 0.1)
    expected = stats.t.interval(0.95, 4, found.means_L.mean(), stats.sem(found.means_L))
    assert found.is_of_new_sets
    assert found.interval(0.95) == pytest.approx(expected)


def test_the_interval_is_never_shorter_than_that_of_these_sets_and_grows_as_one_moves_away() -> None:
    equal = of_means(*[0.1] * 5)
    agreeing = MeanOfSets(equal.estimate, np.full(5, 0.1), equal.variances_L, equal.freedoms_L)
    low, high = agreeing.interval(0.95)
    variance = agreeing.variances_L.sum()
    freedom = variance**2 / (agreeing.variances_L**2 / agreeing.freedoms_L).sum()
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance) / 5)
    widths = [np.diff(of_means(0.1, 0.1, 0.1, 0.1, 0.1 + far).interval(0.95))[0] for far in (0.2, 0.5, 1.0, 3.0)]
    assert sorted(widths) == widths
    assert min(widths) > high - low


def test_below_five_sets_their_differences_do_not_count() -> None:
    near, far = (MeanOfSets(0.0, means, np.full(4, 0.01), np.full(4, 8.0)) for means in (np.zeros(4), np.arange(4.0)))
    assert not far.is_of_new_sets
    assert np.diff(near.interval(0.95)) == pytest.approx(np.diff(far.interval(0.95)))
    assert near.interval(0.95)[1] == pytest.approx(stats.t.ppf(0.975, 32) * 0.05)


@pytest.mark.parametrize("means", [(0.1, 0.2, -0.1, 0.3, 0.2), (0.1, 0.2, 0.15)])
def test_an_end_of_the_interval_and_the_p_value_agree(means: tuple[float, ...]) -> None:
    found = of_means(*means)
    for sign, p in ((1, found.probability_of_negative()), (-1, found.probability_of_positive())):
        if p < 0.5:
            low, high = found.interval(1 - 2 * p)
            assert (high if sign == 1 else low) == pytest.approx(0, abs=1e-9)


def test_of_new_sets_the_interval_covers_their_mean() -> None:
    """Simulated: sets differ as much as each is uncertain. As fixed, it would cover in 86% only."""
    rng = np.random.default_rng(8)
    covers, fixed = [], []
    for _ in range(4000):
        means = rng.standard_normal(5) + rng.standard_normal(5)
        found = MeanOfSets(0.0, means, rng.chisquare(8, 5) / 8, np.full(5, 8.0))
        low, high = found.interval(0.95)
        covers.append(low <= 0 <= high)
        half = stats.t.ppf(0.975, 40) * np.sqrt(found.variances_L.sum()) / 5
        fixed.append(abs(means.mean()) <= half)
    assert 0.945 < np.mean(covers) < 0.975
    assert np.mean(fixed) < 0.89


# --- the study


CompareSets = Callable[..., SetsResult]


def driver_in(folder: Path, patch: pytest.MonkeyPatch) -> CompareSets:
    """The driver with a lab that answers from a seed of each set."""
    patch.setattr("tunewise.storage.disk.sync", lambda path: None)
    patch.setattr("tunewise.commands.report.write_report", build_report)
    patch.setattr("tunewise.commands.deliver.write_card", lambda ledger, study, record: None)

    def compare(
        names: Sequence[str] = NAMES[:2], summaries: dict[str, DataSummary] | None = None, **changes: Any
    ) -> SetsResult:
        study = study_of(names, **changes)
        own = summaries or {name: summary_of(name) for name in names}

        def answer(job: Job) -> Iterator[Event]:
            match job:
                case PrepareJob():
                    yield prepared(job, own[job.root.parent.name])
                case RunJob():
                    spec, ledger = run_of(job)
                    name = ledger.folder.name
                    resolved = resolve.resolve(study.of_set(name), own[name])
                    lab = FakeLab(ledger, resolved, own[name], unchanged, seed=NAMES.index(name))
                    yield from lab.answer(job)
                case _:
                    raise TunewiseError("it has no model")

        for module in (driver, commands):
            patch.setattr(module, "LocalExecutor", lambda held: FakeExecutor(answer))
        return compare_sets(study, folder)

    return compare


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompareSets:
    return driver_in(tmp_path / "study", monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetsResult]:
    """Five sets. Tests must not change them."""
    with pytest.MonkeyPatch.context() as patch:
        yield driver_in(tmp_path_factory.mktemp("sets") / "study", patch)(NAMES)


def study_of(names: Sequence[str], **changes: Any) -> StudySpec:
    data = {"sets": {name: {"train": f"{name}.jsonl"} for name in names}}
    return study_spec(data=data, **{"looks": [3], "margin": "0.1", **changes})


def summary_of(name: str, task: str = "sft") -> DataSummary:
    found = data_summary(task)
    return found.replace(inputs={**found.inputs.model_dump(), "data": name * 64})


@pytest.mark.slow
def test_every_set_is_a_study_with_seeds_of_its_own_and_the_mean_has_one_verdict(finished: SetsResult) -> None:
    result, report = finished, finished.report
    assert report.is_complete
    assert [of.name for of in report.sets] == list(NAMES)
    seeds = [
        {r.spec.seed for r in Ledger(result.folder / "sets" / name).records() if r.spec.role == "confirm"}
        for name in NAMES
    ]
    assert len(set.union(*seeds)) == sum(map(len, seeds)), "sets that share seeds would not be independent"
    assert [of.arm for of in report.verdicts] == ["lora-r8", "lora-r16-all"]
    for verdict in report.verdicts:
        own = [build_report(Ledger(result.folder / "sets" / name)) for name in NAMES]
        differences = [of.difference for one in own for of in one.verdicts if of.arm == verdict.arm]
        assert verdict.difference == pytest.approx(np.mean(differences))
        assert [of.estimate for of in verdict.by_set.values()] == pytest.approx(differences)
        assert verdict.outcome == "as good"
        assert verdict.is_of_new_sets
        assert verdict.num_compared == 2
        assert verdict.low < verdict.difference < verdict.high
        assert "for new datasets of this kind" in verdict.sentence
    assert report.headline == (
        "New datasets of this kind: lora-r8 and lora-r16-all are as good as full fine-tuning within the margin."
    )


def test_both_metrics_are_judged_in_one_family_and_of_few_sets_about_these_alone(run: CompareSets) -> None:
    report = run(secondary={"metric": "bits_per_byte", "margin": "0.1"}).report
    assert [(of.arm, of.metric, of.num_compared) for of in report.verdicts] == [
        (arm, metric, 4) for arm in ("lora-r8", "lora-r16-all") for metric in ("nll", "bits_per_byte")
    ]
    assert report.headline.startswith("These 2 datasets: ")
    for verdict in report.verdicts:
        assert not verdict.is_of_new_sets
        assert "these 2 datasets only" in verdict.sentence


def test_page_terminal_and_json_show_the_mean_and_every_set(finished: SetsResult) -> None:
    result = finished
    page = (result.folder / "sets.html").read_text(encoding="utf-8")
    console = Console(record=True, width=300)
    print_sets(result.report, console, result.folder)
    text = console.export_text()
    for verdict in result.report.verdicts:
        assert verdict.sentence in page
        assert verdict.sentence in text
    for name in NAMES:
        assert f'href="sets/{name}/report.html"' in page
        assert re.search(rf"^ *{name} ", text, re.MULTILINE)
    stored = type(result.report).model_validate_json((result.folder / "sets.json").read_text(encoding="utf-8"))
    assert stored == result.report
    again = report_sets([result.folder], is_plain=True)
    assert again is not None
    assert again.report == result.report


def test_what_withholds_the_verdict_of_a_set_withholds_that_of_the_mean(run: CompareSets) -> None:
    report = run(tuning={"rates": 1}).report
    for verdict in report.verdicts:
        assert (verdict.outcome, verdict.reason) == ("undecided", "blocked")
        assert verdict.blocked_by == dict.fromkeys(NAMES[:2], ("optimum not bracketed",))
    assert "Verdict withheld for lora-r8: see a and b" in report.headline


@pytest.mark.slow
def test_a_set_left_out_makes_all_of_it_exploratory_and_a_lost_run_is_made_again(run: CompareSets) -> None:
    result = run(NAMES[:3])
    ledger = Ledger(result.folder / "sets" / "c")
    ledger.forget(next(r for r in ledger.records() if r.spec.role == "confirm").run_id)
    report = build_sets_report(Ledger(result.folder))
    assert (report.is_complete, report.verdicts) == (False, ())
    assert "runs of c are missing" in report.headline
    assert run(NAMES[:3]).report.is_complete, "the same command resumes"
    report = run(NAMES[:2]).report
    assert report.declarations_changed == ("c",)
    assert {(of.outcome, of.reason) for of in report.verdicts} == {("undecided", "declarations changed")}
    assert "Exploratory, no verdict: c changed" in report.headline


def test_sets_that_have_no_mean_are_refused_before_any_run(run: CompareSets, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="about NLL in a and about accuracy in b, which have no mean"):
        run(names=("a", "b"), summaries={"a": summary_of("a"), "b": summary_of("b", "classify")})
    with pytest.raises(SpecError, match="a and b have the same test rows"):
        run(names=("a", "b"), summaries={"a": summary_of("a"), "b": summary_of("a")})
    assert not Ledger(tmp_path / "study" / "sets" / "a").records()


def test_a_report_of_sets_is_alone(finished: SetsResult) -> None:
    folder = finished.folder
    with pytest.raises(StudyError, match="Give the folder of one set, such as"):
        report_sets([folder], is_plain=False)
    with pytest.raises(StudyError, match="Give the folder of one set, such as"):
        report_sets([folder, folder / "sets" / "a"], is_plain=True)
    assert report_sets([folder / "sets" / "a"], is_plain=False) is None


def test_a_command_for_one_dataset_refuses_several(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="works on one dataset"):
        driver.compare(study_of(NAMES), tmp_path / "study")

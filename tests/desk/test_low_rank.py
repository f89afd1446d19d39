"""Is the task of low rank: what is said of a change whose singular values are known, and which cause is named when."""

import re
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from desk.conftest import write_study
from tunewise.desk.analysis.low_rank import Shortfall, State, cause
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.rows import extracted_rows
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.report.views.capacity_view import LowRankView
from tunewise.desk.statistics.intervals import Estimate
from tunewise.errors import StudyError
from tunewise.records import RunRecord
from tunewise.spec import FullMethod, StudySpec
from tunewise.storage.ledger import Ledger

StudyWriter = Callable[..., Ledger]
STUDY: dict[str, Any] = {
    "arms": {
        "full": {"method": "full", "extract": {"all-linear": [4, 16], "qkv": [8]}},
        "lora-r8": {"method": "lora", "rank": 8, "targets": "qkv"},
        "lora-r16-all": {"method": "lora", "rank": 16, "targets": "all-linear"},
        "lora-r4-all": {"method": "lora", "rank": 4, "targets": "all-linear"},
        "a-r8-mlp": {"method": "lora", "rank": 8, "targets": "mlp"},
    },
    "tuning": {"half_steps": False},
    "margin": "0.025",
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A finished study of full, out of which adapters are cut, and of arms trained at their ranks."""
    return write_study(tmp_path_factory.mktemp("low-rank") / "study", study=STUDY)


@pytest.fixture(scope="module")
def view(ledger: Ledger) -> LowRankView:
    found = build_report(ledger).capacity.low_rank
    assert found is not None
    return found


def test_only_confirmed_runs_cut_adapters_out_and_only_where_asked(ledger: Ledger) -> None:
    asked = {r.run_id for r in ledger.records() if isinstance(r.spec.method, FullMethod) and r.spec.method.extract}
    assert asked == {r.run_id for r in ledger.records() if (r.spec.arm, r.spec.role) == ("full", "confirm")}
    assert all("spectrum.parquet" in r.files for r in ledger.records() if r.run_id in asked)


def test_a_study_that_does_not_ask_has_the_runs_it_always_had(finished: Ledger) -> None:
    without = next(r.spec for r in finished.records() if (r.spec.arm, r.spec.role) == ("full", "confirm"))
    assert without.run_id == without.replace(method={"method": "full", "extract": {}}).run_id
    assert without.run_id != without.replace(method={"method": "full", "extract": {"all-linear": [4]}}).run_id
    assert build_report(finished).capacity.low_rank is None


def test_a_change_in_two_directions_has_the_figures_of_two_directions(view: LowRankView) -> None:
    changed, unchanged = view.modules
    assert changed.relative_size == pytest.approx(0.1)
    assert changed.energies == {4: 1.0, 8: 1.0, 16: 1.0}
    assert changed.energy_rank == 2, "16 of 25 are not 90 %"
    assert changed.stable_rank == pytest.approx(25 / 16)
    assert changed.effective_rank == pytest.approx(1.98, abs=0.01)
    assert changed.intruders == 1
    assert (unchanged.relative_size, unchanged.energies[4], unchanged.effective_rank) == (0.0, None, None)
    assert view.energies == {4: 1.0, 8: 1.0, 16: 1.0}


def test_every_adapter_stands_beside_full_and_beside_the_arm_of_its_rank_and_targets(
    ledger: Ledger, view: LowRankView
) -> None:
    found = [(one.targets, one.rank, one.arm) for one in view.extracted]
    assert found == [
        ("all-linear", 4, "lora-r4-all"),
        ("all-linear", 16, "lora-r16-all"),
        ("all-linear", None, None),
        ("qkv", 8, "lora-r8"),
        ("qkv", None, None),
    ]
    assert (view.num_seeds, view.num_units) == (3, 30)
    assert view.margin == pytest.approx(0.025)
    rows = {}
    for record in ledger.records():
        if (record.spec.arm, record.spec.role) != ("full", "confirm"):
            continue
        for row in pq.ParquetFile(ledger.scores_path(record.run_id)).read().to_pylist():
            rows.setdefault((record.spec.seed, row["split"]), []).append(row)

    def mean(split: str) -> float:
        values = [
            sum(row["nll"] for row in of_run) / sum(row["num_tokens"] for row in of_run)
            for (_, name), of_run in rows.items()
            if name == split
        ]
        return sum(values) / len(values)

    for one in view.extracted:
        assert one.cut.value == pytest.approx(mean(f"valid:{one.targets}={one.rank or 'whole'}"))
        assert one.cut.difference.estimate == pytest.approx(one.cut.value - view.value)
    assert view.value == pytest.approx(mean("valid"))


def test_the_cause_is_told_apart(view: LowRankView) -> None:
    causes = {(one.targets, one.rank): one.cause for one in view.extracted if one.rank}
    assert causes == {("all-linear", 16): None, ("all-linear", 4): "rank", ("qkv", 8): None}
    states = {one.arm: one.trained.state for one in view.extracted if one.trained}
    assert states == {"lora-r16-all": "within", "lora-r4-all": "beyond", "lora-r8": "within"}
    said = {text.split(":")[0]: text for text in view.causes}
    assert "no loss to explain" in said["lora-r8"]
    assert "Rank 4 is too low to represent what full learned" in said["lora-r4-all"]
    assert "The extracted adapter loses less" in said["lora-r4-all"]


def test_full_has_the_shortfall_of_nobody(view: LowRankView) -> None:
    assert all(one.cut.difference.estimate > 0 for one in view.extracted), "the fake lab loses with every cut"


def state_of(value: State) -> Shortfall:
    return Shortfall(value=1.0, difference=Estimate(estimate=0.1, low=None, high=None), state=value)


@pytest.mark.parametrize(
    ("trained", "cut", "whole", "expected"),
    [
        ("within", "beyond", "beyond", None),
        ("open", "within", "within", None),
        ("beyond", "within", "within", "optimisation"),
        ("beyond", "within", "open", "optimisation"),
        ("beyond", "beyond", "within", "rank"),
        ("beyond", "beyond", "beyond", "targets"),
        ("beyond", "open", "beyond", "targets"),
        ("beyond", "open", "within", "open"),
        ("beyond", "beyond", "open", "open"),
    ],
)
def test_no_cause_is_named_that_the_intervals_do_not_tell(
    trained: State, cut: State, whole: State, expected: str | None
) -> None:
    assert cause(state_of(trained), state_of(cut), state_of(whole)) == expected


def test_the_report_says_it_in_every_output_and_gives_no_outcome_for_it(ledger: Ledger, view: LowRankView) -> None:
    report = write_report(ledger)
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Is a low rank enough?</h2>" in page
    console = Console(record=True, width=80)
    print_report(report, console, ledger.folder)
    printed = re.sub(r"\s+", " ", console.export_text())
    assert len(view.causes) == 3
    for text in (*view.causes, view.words):
        assert text in printed
        assert text[:60] in page
        assert not re.findall(r"as good|better|worse|undecided", text)
    for row in extracted_rows(view):
        assert row.cut in page
        assert row.cut in printed
    assert {verdict.arm for verdict in report.verdicts} == {"lora-r8", "lora-r16-all", "lora-r4-all", "a-r8-mlp"}


def test_a_run_of_full_that_diverged_has_no_change_to_speak_of(make_study: StudyWriter) -> None:
    def diverge(record: RunRecord) -> RunRecord:
        is_one = (record.spec.arm, record.spec.role, record.spec.seed) == ("full", "confirm", 1)
        return record.replace(status="diverged", evaluations=(), selected_step=None) if is_one else record

    found = build_report(make_study(study=STUDY, change=diverge)).capacity.low_rank
    assert found is not None
    assert found.num_seeds == 2
    assert {one.trained is not None for one in found.extracted if one.arm} == {True}


def test_a_damaged_spectrum_is_an_error_that_names_it(make_study: StudyWriter) -> None:
    ledger = make_study(study=STUDY)
    record = next(r for r in ledger.records() if "spectrum.parquet" in r.files)
    ledger.spectrum_path(record.run_id).write_bytes(b"")
    with pytest.raises(StudyError, match=r"spectrum\.parquet"):
        build_report(ledger)


def test_ranks_alone_mean_all_linear_and_are_put_in_order() -> None:
    assert FullMethod(extract=[16, 4, 16]).extract == {"all-linear": (4, 16)}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        FullMethod(extract={"qkv": (0,)})
    with pytest.raises(ValueError, match="at least 1 item"):
        FullMethod(extract={"qkv": ()})
    content = {"name": "s", "data": {"train": "t"}, "arms": {"full": {"method": "full", "extract": [8]}}}
    resolved = StudySpec.model_validate(content).model_dump(mode="json")
    assert StudySpec.model_validate(resolved).arms["full"] == FullMethod(extract={"all-linear": (8,)})

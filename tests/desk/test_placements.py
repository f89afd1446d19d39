"""`targets: auto`: arms of equal budget, and the placement that is named, by what, and when not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rich.console import Console

from desk.conftest import GAINS, data_summary, study_spec, write_study
from tunewise.desk.protocol import resolve
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.report.views.capacity_view import PlacementView
from tunewise.errors import SpecError
from tunewise.records import RunRecord, TrainableSummary
from tunewise.spec import LoraMethod
from tunewise.spec.expand import arm_name, expand, placed
from tunewise.storage.ledger import Ledger

StudyWriter = Callable[..., Ledger]
COSTS = {"qkv": 8192, "attention": 12288, "mlp": 20480, "all-linear": 32768}  # as in GPT-2: 4, 6, 10, 16 parts
ARMS: dict[str, Any] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "rank": 8, "targets": "auto"},
}
RANKS = {"qkv": 32, "attention": 21, "mlp": 13, "all-linear": 8}


def tuned(placement: str, rank: int) -> TrainableSummary:
    return TrainableSummary(
        trainable_parameters=rank * COSTS[placement],
        total_parameters=5_000_000,
        scale=32 / rank,
        num_target_modules=4,
        linear_share=1.0,
        rank_parameters=COSTS[placement],
        parameter_groups=(),
    )


def prepared() -> dict[str, Any]:
    """What the lab says of the arms that the study becomes."""
    return {"arms": {arm_name("lora", p): tuned(p, rank).model_dump() for p, rank in RANKS.items()}}


def with_own_parameters(record: RunRecord) -> RunRecord:
    method = record.spec.method
    if not isinstance(method, LoraMethod):
        return record
    return record.replace(tuned=tuned(str(method.targets), int(method.rank)))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return write_study(
        tmp_path_factory.mktemp("placements") / "study",
        study={"arms": ARMS, "tuning": {"half_steps": False}},
        data=prepared(),
        change=with_own_parameters,
    )


# --- the arms


def test_every_placement_gets_the_rank_at_which_it_trains_as_many_parameters() -> None:
    study = resolve.resolve(study_spec(arms=ARMS), data_summary(**prepared()))
    assert list(study.arms) == ["full", "lora-qkv", "lora-attention", "lora-mlp", "lora-all-linear"]
    found = {m.targets: m.rank for m in study.arms.values() if isinstance(m, LoraMethod)}
    assert found == RANKS
    parameters = [COSTS[str(targets)] * int(rank) for targets, rank in found.items()]
    assert max(parameters) <= 1.05 * min(parameters)
    assert resolve.resolve(study, data_summary(**prepared())) == study, "what is resolved stays so"


@pytest.mark.parametrize("rank", [3, 5, 7, 8, 16, 50])
def test_ranks_match_or_are_refused_with_ones_that_do(rank: int) -> None:
    costs = {"qkv": 4000, "mlp": 9001, "all-linear": 20011}
    try:
        arms = placed("lora", LoraMethod(rank=rank, targets="auto"), costs)
    except SpecError as error:
        proposed = [int(found) for found in re.findall(r"\d+", str(error).rpartition("Try rank")[2])]
        assert proposed
        assert rank not in proposed
        for other in proposed:
            assert placed("lora", LoraMethod(rank=other, targets="auto"), costs)
        return
    parameters = [int(method.rank) * costs[str(method.targets)] for method in arms.values()]
    assert max(parameters) <= 1.05 * min(parameters)


def test_rank_1_cannot_be_matched_here() -> None:
    with pytest.raises(SpecError, match="no whole ranks bring the placements' parameters within 5% of each other"):
        placed("lora", LoraMethod(rank=1, targets="auto"), COSTS)


def test_a_name_that_is_taken_is_refused() -> None:
    taken = {**ARMS, "lora-mlp": {"method": "lora", "rank": 2}}
    with pytest.raises(SpecError, match="becomes an arm 'lora-mlp', but the study already has one"):
        expand(study_spec(arms=taken), {"lora": COSTS})


def test_two_questions_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="cannot be combined"):
        LoraMethod(rank="auto", targets="auto")


# --- the placement that is named


def view_of(ledger: Ledger) -> PlacementView:
    (found,) = build_report(ledger).capacity.placements
    return found


def test_each_rate_is_searched_and_the_one_named_is_the_best_on_valid(ledger: Ledger) -> None:
    view = view_of(ledger)
    trials = {arm: len(trials_module.trials(ledger.records(), arm)) for arm in (point.arm for point in view.points)}
    assert set(trials.values()) == {3}
    valid: dict[str, list[float]] = {}
    for record in ledger.records():
        if record.spec.role == "confirm" and record.spec.arm.startswith("lora-"):
            rows = pq.ParquetFile(ledger.scores_path(record.run_id)).read().to_pylist()
            of_valid = [row for row in rows if row["split"] == "valid"]
            value = sum(row["nll"] for row in of_valid) / sum(row["num_tokens"] for row in of_valid)
            valid.setdefault(record.spec.arm, []).append(value)
    means = {arm: float(np.mean(values)) for arm, values in valid.items()}
    assert [point.arm for point in view.points] == sorted(means, key=lambda arm: means[arm])
    assert view.best == view.points[0].arm
    for point in view.points:
        assert point.valid == pytest.approx(means[point.arm])
        assert point.parameters == COSTS[point.targets] * point.rank
    assert (view.num_seeds, view.num_units) == (3, 75)
    assert view.confidence == pytest.approx(1 - 0.05 / 3)


def test_differences_are_those_on_test_from_the_one_named(ledger: Ledger) -> None:
    view = view_of(ledger)
    report = build_report(ledger)
    best = report.arm(view.points[0].arm).metrics["nll"].mean
    assert best is not None
    assert view.points[0].difference is None
    for point in view.points[1:]:
        mean = report.arm(point.arm).metrics["nll"].mean
        assert mean is not None
        assert point.difference is not None
        assert point.difference.estimate == pytest.approx(mean - best)
        assert point.difference.low is not None
        assert point.difference.low < point.difference.estimate


def test_a_placement_that_is_far_behind_is_said_to_be_and_an_equal_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GAINS, "lora-qkv", 0.3)
    study = {"arms": ARMS, "tuning": {"half_steps": False}}
    view = view_of(write_study(tmp_path / "study", study=study, data=prepared(), change=with_own_parameters))
    behind = {point.targets: point.is_behind for point in view.points}
    assert behind.pop("qkv")
    assert not any(behind.values()), "the others gain the same in the fake lab"
    assert "qkv is worse, and" in view.words
    assert "cannot be distinguished from it" in view.words


def test_a_finding_that_blocks_leaves_the_placement_unnamed(make_study: StudyWriter) -> None:
    fixed = {**ARMS, "lora": {**ARMS["lora"], "rates": [1e-3]}}
    view = view_of(make_study(study={"arms": fixed}, data=prepared(), change=with_own_parameters))
    assert view.best is None
    assert "The comparison is withheld because of unequal-tuning-rule" in view.words


def test_nothing_is_named_before_the_look_is_complete_nor_of_unequal_budgets(
    make_study: StudyWriter, finished: Ledger
) -> None:
    study = {"arms": ARMS, "tuning": {"half_steps": False}}
    partly = make_study(study=study, data=prepared(), change=with_own_parameters, max_runs=29)
    assert build_report(partly).capacity.placements == ()
    assert build_report(finished).capacity.placements == (), "r8 on qkv and r16 on all modules are not equal"


def test_every_output_says_it(ledger: Ledger) -> None:
    report = write_report(ledger)
    (view,) = report.capacity.placements
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    console = Console(record=True, width=80)
    print_report(report, console, ledger.folder)
    printed = re.sub(r"\s+", " ", console.export_text())
    assert "<h2>Which modules</h2>" in page
    assert view.words in printed
    assert view.words in page
    for point in view.points:
        assert f"{point.parameters:,}" in page
        assert f"{point.parameters:,}" in printed

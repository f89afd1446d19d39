"""Which rank: the rule that picks a candidate from truncations, and the study that trains it by itself."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console

from desk.conftest import write_study
from tunewise.commands.running import begins
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.protocol import resolve, schedule, trials
from tunewise.desk.protocol.ranks import rank_curves
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.rows import rank_rows
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.desk.study.state import StudyState
from tunewise.records import RunRecord, truncated_split
from tunewise.spec import LoraMethod, PeftMethod
from tunewise.spec.reading import parse_study
from tunewise.storage.ledger import Ledger

StudyWriter = Callable[..., Ledger]
AUTO = {"method": "lora", "rank": "auto", "max_rank": 32, "targets": "qkv"}
SETTINGS = {"name": "s", "model": "tiny", "data": {"train": "train.jsonl"}}
STUDY: dict[str, Any] = {"arms": {"full": {"method": "full"}, "lora": AUTO}, "tuning": {"half_steps": False}}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A finished study of full and of LoRA with rank: auto."""

    return write_study(tmp_path_factory.mktemp("ranks") / "study", study=STUDY)


def test_the_candidate_is_trained_by_itself_at_a_rate_of_its_own(ledger: Ledger) -> None:
    records = [record for record in ledger.records() if record.spec.arm == "lora"]
    ranks = {role: {r.spec.method.rank for r in records if r.spec.role == role} for role in ("tune", "confirm")}
    assert ranks == {"tune": {32, 4}, "confirm": {4}}
    seeds = {r.spec.seed for r in records if r.spec.role == "confirm"}
    assert not seeds & {r.spec.seed for r in records if r.spec.role == "tune"}, "fresh ones"
    rates = Counter(r.spec.method.rank for r in records if r.spec.role == "tune")
    assert rates[4] == rates[32] == 3, "both are searched by the rule of every arm"
    assert all(r.spec.ranks == (1, 2, 4, 8, 16) for r in records if r.spec.method.rank == 32)
    assert all(r.spec.ranks == () for r in records if r.spec.method.rank == 4)


def test_the_search_at_the_candidate_begins_at_the_best_rate_of_the_highest_rank(ledger: Ledger) -> None:
    folder = StudyState.read(ledger)
    curve = folder.rank_curves["lora"]
    method = folder.study.arms["lora"]
    assert isinstance(method, LoraMethod)
    assert method.rank == curve.candidate == 4
    assert method.learning_rate == pytest.approx(curve.learning_rate, rel=1e-2)
    stabilised = LoraMethod(rank="auto", max_rank=64, variant="rslora", alpha=8)
    study = folder.study.replace(arms={"full": {"method": "full"}, "lora": stabilised.model_dump()})
    settled = resolve.settle(study, folder.records, {"lora": 4})
    # scale * rank is alpha sqrt(rank): a quarter at a sixteenth of the rank, so twice the rate
    chosen = trials.selected_rates(study, folder.records)["lora"]
    assert settled.arms["lora"].learning_rate == pytest.approx(2 * chosen, rel=1e-2)  # type: ignore[union-attr]


def test_the_curve_says_what_every_truncation_scored(ledger: Ledger) -> None:
    curve = StudyState.read(ledger).rank_curves["lora"]
    even = [point for point in curve.points if not point.spread]
    assert [point.rank for point in even] == [1, 2, 4, 8, 16, 32]
    assert [point.parameters for point in even] == [4096 * rank for rank in (1, 2, 4, 8, 16, 32)]
    top = even[-1]
    for point in even[:-1]:
        assert point.difference is not None
        assert point.difference.estimate == pytest.approx(point.value - top.value)
        assert point.difference.estimate == pytest.approx(0.5 * 0.25 * 2.0**-point.rank, rel=0.1)
    assert [point.within for point in even] == [False, False, True, True, True, True]
    assert curve.margin == pytest.approx(0.01), "half of the smaller of 0.02 nats and 5 % of a gain of 0.5"
    assert [point.rank for point in curve.points if point.spread] == [1, 2, 4, 8, 16]
    assert (curve.num_seeds, curve.num_units) == (1, 30)


def test_runs_of_the_first_search_are_not_stale_and_the_arm_has_no_trials_of_it(ledger: Ledger) -> None:
    folder = StudyState.read(ledger)
    assert folder.stale == ()
    assert len(folder.first_searches) == 3
    begun = begins(folder.records[0].spec, folder, folder.records, 0)
    assert (begun.done, begun.expected) == (16, 16)
    assert len(trials.trials(folder.records, "lora")) == 3
    assert {run.spec.method.rank for run in folder.confirmed["lora"]} == {4}  # type: ignore[union-attr]


def test_while_the_search_at_the_highest_rank_goes_on_nothing_is_confirmed(make_study: StudyWriter) -> None:
    roles: list[str] = []
    for max_runs in range(1, 9):
        found = make_study(study=STUDY, max_runs=max_runs)
        roles = [record.spec.role for record in found.records()]
        method = StudyState.read(found).study.arms["lora"]
        assert isinstance(method, LoraMethod)
        done = {r.spec.learning_rate for r in found.records() if r.spec.arm == "lora" and r.spec.ranks}
        assert (method.rank == 4) == (len(done) == 3)
        assert "confirm" not in roles
    assert len(roles) == 8


def test_a_rank_that_diverges_at_every_rate_takes_no_part(make_study: StudyWriter) -> None:
    def diverge(record: RunRecord) -> RunRecord:
        if record.spec.arm != "lora" or record.spec.role == "confirm":
            return record
        return record.replace(status="diverged", evaluations=(), selected_step=None)

    folder = StudyState.read(make_study(study=STUDY, change=diverge))
    assert folder.rank_curves == {}
    assert "lora" not in folder.confirmed
    assert "full" in folder.confirmed


def test_a_candidate_that_is_another_arm_already_leaves_its_place_to_it(make_study: StudyWriter) -> None:
    same = {"method": "lora", "rank": 4, "targets": "qkv"}
    found = make_study(study={**STUDY, "arms": {**STUDY["arms"], "lora-r4": same}})
    folder = StudyState.read(found)
    assert list(folder.study.arms) == ["full", "lora-r4"]
    assert folder.rank_curves["lora"].candidate == 4
    assert folder.rank_curves["lora"].trained_as == "lora-r4"
    assert {record.spec.arm for record in found.records() if record.spec.role == "confirm"} == {"full", "lora-r4"}
    report = write_report(found)
    (view,) = report.capacity.ranks
    assert [(point.arm, point.rank, point.num_seeds) for point in view.direct] == [("lora-r4", 4, 3)]
    assert "As lora-r4 it is trained directly" in view.words
    assert {verdict.arm for verdict in report.verdicts} == {"lora-r4"}


# --- the rule


def curve_of(ledger: Ledger, change: Callable[[str, Scores], Scores], **study: Any) -> RankCurve:
    """The curve of the fake study with its scores changed, by split."""
    folder = StudyState.read(ledger)
    content = ledger.study().replace(task="sft", **study)
    records = schedule.current(content, folder.data, ledger.records())

    def scores(runs: Iterable[RunRecord], split: str) -> list[Scores]:
        return [change(split, one) for one in folder.scores(runs, split)]

    return rank_curves(content, folder.data, records, scores)["lora"]


def test_a_truncation_is_within_the_margin_only_with_its_interval(ledger: Ledger) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, 60)
    noise -= noise.mean()

    def widen(split: str, one: Scores) -> Scores:
        is_four = split == truncated_split("valid", 4, spread=False)
        return replace(one, nll=one.nll + noise * one.num_tokens) if is_four else one

    points = {p.rank: p for p in curve_of(ledger, widen).points if not p.spread}
    assert points[4].difference is not None
    assert points[4].difference.estimate < 0.01, "the mean is within it"
    assert points[4].difference.high is not None
    assert points[4].difference.high > 0.01
    assert not points[4].within
    assert curve_of(ledger, widen).candidate == 8


def test_equal_scores_are_within_any_margin(ledger: Ledger) -> None:
    folder = StudyState.read(ledger)
    rate = folder.rank_curves["lora"].learning_rate
    trial = next(r for r in ledger.records() if r.spec.ranks and r.spec.learning_rate == rate)
    whole = folder.scores([trial], "valid")[0]

    def equal(split: str, one: Scores) -> Scores:
        return whole if split == truncated_split("valid", 1, spread=False) else one

    assert curve_of(ledger, equal).candidate == 1


def test_the_declared_margin_counts(ledger: Ledger) -> None:
    def same(split: str, one: Scores) -> Scores:
        return one

    assert curve_of(ledger, same, margin="0.2").candidate == 1
    assert curve_of(ledger, same, margin="0.002").candidate == 8
    assert curve_of(ledger, same, margin="30% of gain").candidate == 1
    assert curve_of(ledger, same, margin="0.0000001").candidate == 32, "the highest rank itself, where nothing else is"


# --- what may be written


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"rank": "all"}, "must be a whole number of 1 or more, or auto, but got 'all'"),
        ({"rank": 8, "max_rank": 64}, "max_rank needs rank: auto"),
        ({"rank": "auto", "variant": "dora"}, "not the whole update of dora"),
        ({"rank": "auto", "max_rank": 1}, "greater than or equal to 2"),
    ],
)
def test_what_makes_no_sense_is_named(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LoraMethod.model_validate(method)


def test_ranks_below_the_highest_are_powers_of_two() -> None:
    assert LoraMethod(rank="auto").truncations == (1, 2, 4, 8, 16, 32)
    assert LoraMethod(rank="auto", max_rank=48).truncations == (1, 2, 4, 8, 16, 32)
    assert LoraMethod(rank="auto", max_rank=2).truncations == (1,)
    assert LoraMethod(rank=64).truncations == ()
    assert LoraMethod(rank="auto", max_rank=16).scale == 2.0


# --- the report


def test_the_report_shows_truncated_and_directly_trained_points_together(make_study: StudyWriter) -> None:
    arms = {**STUDY["arms"], "lora-r16": {"method": "lora", "rank": 16, "targets": "qkv"}}
    others = {"lora-r8-all": {"method": "lora", "rank": 8, "targets": "all-linear"}}
    found = make_study(study={**STUDY, "arms": {**arms, **others}})
    report = write_report(found)
    (view,) = report.capacity.ranks
    assert [(point.arm, point.rank, point.num_seeds) for point in view.direct] == [("lora", 4, 3), ("lora-r16", 16, 3)]
    assert all(point.trial is not None and point.low is not None for point in view.direct)
    assert view.spread_arm is not None
    (spread,) = parse_study({**SETTINGS, "arms": yaml.safe_load(view.spread_arm)}, "here").arms.values()
    assert isinstance(spread, PeftMethod)
    (pattern,) = (point.rank_pattern for point in view.points if point.spread and point.rank == 4)
    assert spread.options["rank_pattern"] == pattern == {"h.0.c_attn": 7, "h.1.c_attn": 1}
    assert (spread.options["r"], spread.options["lora_alpha"], spread.options["target_modules"]) == (4, 32, "qkv")
    assert "Rank 4 is the lowest that stays within half of the margin (0.01 nats" in view.words
    assert "not adjusted" in view.words
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Which rank</h2>" in page
    assert "4 (candidate)" in page
    assert "lora-spread:" in page
    assert (found.folder / "figures" / "ranks-lora.svg").is_file()
    console = Console(record=True, width=80)
    print_report(report, console, found.folder)
    printed = console.export_text()
    assert "which rank: lora on the validation set" in printed
    for row in rank_rows(view):
        assert all(cell in printed and cell in page for cell in row[1:]), "no figure is cut"
    assert report.study.finished_runs == len(found.records())
    assert report.arm("lora").method.startswith("LoRA r=4")
    assert {verdict.arm for verdict in report.verdicts} == {"lora", "lora-r16", "lora-r8-all"}


def test_a_study_that_does_not_ask_says_nothing_of_ranks(finished: Ledger) -> None:
    assert write_report(finished).capacity.ranks == ()
    assert "Which rank" not in (finished.folder / "report.html").read_text(encoding="utf-8")

"""What the report says is what the study folder holds, and nothing in it reaches out or breaks out."""

import hashlib
import json
import math
import re
import shlex
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from tunewise.desk.metrics.metrics import METRICS
from tunewise.desk.protocol.search import headroom
from tunewise.desk.report import wording
from tunewise.desk.report.charts.canvas import to_svg
from tunewise.desk.report.charts.charts import figures
from tunewise.desk.report.charts.rates import parabola
from tunewise.desk.report.compose.arms import MAX_TRAIN_POINTS, thinned
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html, write_report
from tunewise.desk.report.sentences import what_would_decide
from tunewise.desk.report.stored import read_report
from tunewise.desk.report.views.view import Report, schema_text
from tunewise.errors import StudyError
from tunewise.records import RunRecord
from tunewise.spec.reading import read_study
from tunewise.storage.ledger import Ledger

ROOT = Path(__file__).parents[2]
REGENERATE = (
    'python -c "from tunewise.desk.report.views.view import schema_text; print(schema_text(), end=str())"'
    " > docs/report.schema.json"
)


@pytest.fixture(scope="module")
def report(finished: Ledger) -> Report:
    return write_report(finished)


@pytest.fixture(scope="module")
def page(finished: Ledger, report: Report) -> str:
    return (finished.folder / "report.html").read_text(encoding="utf-8")


# --- an outsider's arithmetic: json and parquet only


def stored_runs(folder: Path, arm: str, role: str) -> list[dict[str, Any]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("runs/*/record.json")]
    chosen = [r for r in records if r["spec"]["arm"] == arm and r["spec"]["role"] == role]
    return sorted(chosen, key=lambda record: int(record["spec"]["seed"]))


def per_token_nll(folder: Path, run_id: str, split: str) -> float:
    rows = pq.ParquetFile(folder / "runs" / run_id / "scores.parquet").read().to_pylist()
    rows = [row for row in rows if row["split"] == split]
    return math.fsum(row["nll"] for row in rows) / sum(row["num_tokens"] for row in rows)


def test_every_quality_in_the_report_is_recomputed_from_the_scores(finished: Ledger, report: Report) -> None:
    for arm in report.arms:
        runs = stored_runs(finished.folder, arm.name, "base" if arm.name == "base" else "confirm")
        nll = [per_token_nll(finished.folder, run["run_id"], "test") for run in runs]
        assert arm.metrics["nll"].per_seed == pytest.approx(nll, rel=1e-12)
        assert arm.metrics["nll"].mean == pytest.approx(statistics.mean(nll), rel=1e-12)
        assert arm.metrics["perplexity"].mean == pytest.approx(math.exp(statistics.mean(nll)), rel=1e-12)


def test_the_verdicts_difference_is_the_difference_of_the_arms_own_means(report: Report) -> None:
    assert {verdict.arm for verdict in report.verdicts} == {"lora-r8", "lora-r16-all"}
    for verdict in report.verdicts:
        mean, full = report.arm(verdict.arm).metrics["nll"].mean, report.arm("full").metrics["nll"].mean
        assert mean is not None
        assert full is not None
        assert verdict.difference == pytest.approx(mean - full, abs=1e-12)
        assert verdict.low is not None
        assert verdict.high is not None
        assert verdict.low < verdict.difference < verdict.high


def test_costs_are_medians_over_the_confirmed_runs_and_ratios_are_to_full(finished: Ledger, report: Report) -> None:
    seconds = {}
    for arm in report.tuned_arms():
        usages = [run["usage"] for run in stored_runs(finished.folder, arm.name, "confirm")]
        seconds[arm.name] = statistics.median(usage["train_seconds"] for usage in usages)
        assert arm.train_seconds == pytest.approx(seconds[arm.name])
        assert arm.saved_bytes == usages[0]["saved_bytes"]
        assert arm.peak_memory_bytes == usages[0]["train_memory"]["peak_bytes"]
        speeds = [usage["num_tokens"] / usage["train_seconds"] for usage in usages]
        assert arm.tokens_per_second == pytest.approx(statistics.median(speeds))
    for arm in report.tuned_arms():
        assert arm.ratio_to_full["train_seconds"] == pytest.approx(seconds[arm.name] / seconds["full"])


def test_the_seconds_to_equal_quality_are_steps_of_the_usual_length(report: Report) -> None:
    """The fake lab's steps take 0.2 s; its loss on valid falls in a straight line to the end, least in lora-r8."""
    arms = {arm.name: arm for arm in report.tuned_arms()}
    for arm in arms.values():
        assert arm.to_quality is not None
        assert arm.to_quality.steps is not None
        assert arm.step_seconds == arm.first_step_seconds == 0.2
        assert arm.seconds_to_quality == pytest.approx(0.2 * arm.to_quality.steps)
    seconds = {name: arm.seconds_to_quality or 0.0 for name, arm in arms.items()}
    assert max(seconds, key=lambda name: seconds[name]) == "lora-r8"


def test_full_was_within_the_margin_late_and_the_report_says_how_late(report: Report) -> None:
    """Of a straight fall by 0.62, the last 0.02 is the last 3.2 % of the steps."""
    assert report.study.full_within_margin_after == pytest.approx(1 - 0.02 / 0.62, abs=2e-3)


def test_the_ratio_of_learning_rates_is_estimated_from_three_search_seeds_and_else_said_not_to_be(
    make_study: Any, report: Report, page: str
) -> None:
    assert {arm.rate_ratio for arm in report.arms} == {None}
    assert "Best learning rate as a multiple of full&#39;s: not estimated" in page
    ledger = make_study(study={"tuning": {"seeds": 3, "rates": 5}})
    searched = write_report(ledger)
    found = searched.arm("lora-r8").rate_ratio
    assert found is not None
    assert found.low is not None
    assert found.low < 10 < (found.high or 0.0), "the fake lab is best at the centres, LoRA's ten times full's"
    assert "lora-r8 10 (" in (ledger.folder / "report.html").read_text(encoding="utf-8")


def test_capacity_is_told_as_parameters_by_supervised_token(report: Report) -> None:
    tokens = report.data.split("train").supervised_tokens
    for arm in report.tuned_arms():
        assert arm.trainable_parameters is not None
        assert arm.parameters_per_target == pytest.approx(arm.trainable_parameters / tokens)


def test_forgetting_is_the_change_of_nll_on_general_text_against_the_base(finished: Ledger, report: Report) -> None:
    (base,) = stored_runs(finished.folder, "base", "base")
    before = per_token_nll(finished.folder, base["run_id"], "general")
    for arm in report.tuned_arms():
        runs = stored_runs(finished.folder, arm.name, "confirm")
        after = [per_token_nll(finished.folder, run["run_id"], "general") for run in runs]
        assert arm.forgetting is not None
        assert arm.forgetting.estimate == pytest.approx(statistics.mean(after) - before, rel=1e-9)
    assert report.arm("base").forgetting is None


def test_what_every_tried_rate_forgot_is_told_beside_what_it_learned(finished: Ledger, report: Report) -> None:
    (base,) = stored_runs(finished.folder, "base", "base")
    before = per_token_nll(finished.folder, base["run_id"], "general")
    for arm in report.tuned_arms():
        trials = {run["spec"]["learning_rate"]: run["run_id"] for run in stored_runs(finished.folder, arm.name, "tune")}
        for point in arm.learning_rate_curve:
            after = per_token_nll(finished.folder, trials[point.learning_rate], "general")
            assert point.forgetting == pytest.approx(after - before, rel=1e-9)


def test_the_trainable_percent_is_trainable_over_total(report: Report) -> None:
    for arm in report.tuned_arms():
        assert arm.trainable_parameters is not None
        assert arm.total_parameters is not None
        assert arm.trainable_percent == pytest.approx(100 * arm.trainable_parameters / arm.total_parameters)


# --- files


def test_the_published_schema_is_the_models_own() -> None:
    published = (ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), f"regenerate it: {REGENERATE}"


def test_report_json_fits_the_published_schema_and_reads_back_as_the_same_report(
    finished: Ledger, report: Report
) -> None:
    path = finished.folder / "report.json"
    text = path.read_text(encoding="utf-8")
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(text), schema)
    assert Report.model_validate(read_report(path)) == report
    assert Report.model_validate_json(text).replace(sha256=None) == report


def test_a_report_of_which_any_word_was_changed_is_not_read(finished: Ledger, tmp_path: Path) -> None:
    text = (finished.folder / "report.json").read_text(encoding="utf-8")
    for changed in (text.replace('"model": "', '"model": "another-'), text.replace('"sha256": "', '"sha256": "0'), ""):
        (tmp_path / "report.json").write_text(changed, encoding="utf-8")
        assert read_report(tmp_path / "report.json") is None


def test_writing_the_report_again_changes_no_byte_and_touches_no_run(finished: Ledger, report: Report) -> None:
    def contents() -> dict[str, str]:
        files = (path for path in sorted(finished.folder.rglob("*")) if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = contents()
    assert write_report(finished) == report
    assert contents() == before


def test_every_figure_is_well_formed_and_follows_the_readers_dark_mode(finished: Ledger, report: Report) -> None:
    names = {path.stem for path in (finished.folder / "figures").glob("*.svg")}
    training = {"training-loss", "validation", "learning-rates", "learning-and-forgetting", "forgetting-by-rate"}
    assert names == {"difference-to-full", *training, "quality-against-cost"}
    for name in names:
        text = (finished.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        assert "NaN" not in text


def test_a_figure_that_has_no_data_any_more_is_removed(make_study: Any) -> None:
    ledger = make_study(max_runs=1)
    (ledger.folder / "figures").mkdir()
    (ledger.folder / "figures" / "difference-to-full.svg").write_text("<svg/>", encoding="utf-8")
    write_report(ledger)
    assert list((ledger.folder / "figures").iterdir()) == []


# --- the page


class Elements(HTMLParser):
    """All tags with their attributes, and the text of style elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_loads_nothing(page: str) -> None:
    elements = Elements(page)
    loading = [a[k] for _, a in elements.tags for k in ("src", "href", "srcset", "data", "xlink:href") if k in a]
    parts = {"#" + attributes["id"] for _, attributes in elements.tags if "id" in attributes}
    assert [address for address in loading if address not in parts] == ["data:,"]
    assert not {"script", "iframe", "object", "embed", "img"} & {tag for tag, _ in elements.tags}
    assert "url(" not in page.replace("url(#", "")
    assert "@import" not in page


def test_ids_on_the_page_are_unique(page: str) -> None:
    ids = Counter(attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes)
    assert all(count == 1 for count in ids.values())


def test_the_page_says_every_verdict_in_words_and_every_arm_by_name(report: Report, page: str) -> None:
    for verdict in report.verdicts:
        assert f"{wording.OUTCOMES[verdict.outcome]}</abbr></span>" in page
    for arm in report.arms:
        assert f"</span>{arm.name}" in page


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} [bold]x[/bold]"


def hostile(record: RunRecord) -> RunRecord:
    samples = [
        {"example": s.example, "prompt": HOSTILE, "output": HOSTILE, "reference": HOSTILE} for s in record.samples
    ]
    return record.replace(samples=samples, warnings=[HOSTILE])


def test_text_from_data_and_models_does_nothing_on_the_page(make_study: Any) -> None:
    ledger = make_study(change=hostile, data={"example_prompt": HOSTILE, "notes": [HOSTILE]})
    page = to_html(build_report(ledger), ())
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not {"script", "img"} & {tag for tag, _ in Elements(page).tags}
    assert "{{ 7 * 7 }}" in page


def test_a_missing_number_is_none_in_the_file_and_a_dash_on_the_page(make_study: Any) -> None:
    def without_memory(record: RunRecord) -> RunRecord:
        usage = record.usage
        assert usage is not None
        return record.replace(usage={**usage.model_dump(), "train_memory": None, "saved_bytes": None})

    report = build_report(make_study(change=without_memory))
    arm = report.arm("full")
    assert arm.peak_memory_bytes is None
    assert arm.saved_bytes is None
    assert arm.ratio_to_full["saved_bytes"] is None
    page = to_html(report, ())
    assert 'data-label="peak memory"><span class="value">–</span></td>' in page
    assert "None" not in page
    assert "nan" not in page


# --- studies that are not finished, or have nothing to compare with


@pytest.mark.parametrize("max_runs", [0, 1, 6, 14])
def test_an_unfinished_study_has_a_report_that_says_so_and_no_outcome(make_study: Any, max_runs: int) -> None:
    report = build_report(make_study(max_runs=max_runs))
    assert not report.is_complete
    assert report.verdicts == ()
    assert report.headline.startswith("No verdict yet")
    assert report.study.finished_runs == max_runs
    page = to_html(report, figures(report) if max_runs == 14 else ())
    assert "No verdict yet" in page
    assert 'class="badge"' not in page


def test_without_a_full_arm_there_is_no_verdict_and_the_report_says_why(make_study: Any) -> None:
    arms = {"lora-r8": {"method": "lora", "targets": "qkv"}, "lora-r16-all": {"method": "lora", "rank": 16}}
    report = build_report(make_study(study={"arms": arms}))
    assert report.is_complete
    assert report.verdicts == ()
    assert "no full fine-tuning arm" in report.headline
    assert report.arm("lora-r8").metrics
    assert report.arm("lora-r8").ratio_to_full["train_seconds"] is None


def test_full_alone_has_no_verdict(make_study: Any) -> None:
    report = build_report(make_study(study={"arms": {"full": {"method": "full"}}}))
    assert report.verdicts == ()
    assert report.no_verdict is not None


def test_an_optimum_at_the_edge_leaves_every_verdict_undecided(make_study: Any) -> None:
    report = build_report(make_study(study={"tuning": {"rates": 1}}))
    assert [verdict.outcome for verdict in report.verdicts] == ["undecided", "undecided"]
    assert {verdict.reason for verdict in report.verdicts} == {"optimum not bracketed"}


def test_two_seeds_decide_nothing(make_study: Any) -> None:
    report = build_report(make_study(study={"looks": [2]}))
    assert {verdict.reason for verdict in report.verdicts} == {"seeds"}
    assert report.study.seeds == (1, 2)


def test_a_lost_seed_is_lost_in_every_arm(make_study: Any) -> None:
    def lose(record: RunRecord) -> RunRecord:
        is_lost = (record.spec.arm, record.spec.role, record.spec.seed) == ("full", "confirm", 2)
        return record.replace(status="failed", message="out of memory") if is_lost else record

    report = build_report(make_study(study={"looks": [4]}, change=lose))
    assert report.is_complete
    assert report.study.seeds == (1, 3, 4)
    assert all(len(arm.metrics["nll"].per_seed) == 3 for arm in report.tuned_arms())
    assert "confirmation-failed" in {finding.id for finding in report.warnings}
    for verdict in report.verdicts:
        assert verdict.dropped_seeds == (2,)
        assert "Seed 2 is left out of every arm because a run was lost." in verdict.sentence


def test_a_classification_is_judged_by_accuracy_and_measures_gain_over_the_head(make_study: Any) -> None:
    ledger = make_study(data={"task": "classify"})
    report = build_report(ledger)
    assert {verdict.metric for verdict in report.verdicts} == {"accuracy"}
    rows = pq.ParquetFile(ledger.scores_path(stored_runs(ledger.folder, "full", "confirm")[0]["run_id"])).read()
    hits = [r["label"] == r["prediction"] for r in rows.to_pylist() if r["split"] == "test"]
    assert report.arm("full").metrics["accuracy"].per_seed[0] == pytest.approx(np.mean(hits))
    head = next(verdict for verdict in report.verdicts if verdict.arm == "head")
    assert head.gain_kept is not None
    assert head.gain_kept.estimate == pytest.approx(0.0)
    assert "head" not in report.headline


def test_arms_share_the_error_by_holm_and_the_cheapest_that_is_good_is_recommended(make_study: Any) -> None:
    ledger = make_study(study={"margin": "0.1"})
    report = write_report(ledger)
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    assert [(v.arm, v.outcome, v.num_compared) for v in report.verdicts] == [
        ("lora-r8", "as good", 2),
        ("lora-r16-all", "as good", 2),
    ]
    assert sorted(verdict.confidence for verdict in report.verdicts) == [0.95, 0.975]
    assert report.recommended_arm == "lora-r8"  # 32,768 parameters against 327,680
    assert '97.5% <abbr title="' in page
    assert "</abbr>-adjusted, 2 comparisons)" in page
    assert "Recommended: lora-r8" in page


COSTS = ("trainable_parameters", "train_seconds", "saved_bytes")


def test_the_recommendation_goes_by_the_cost_that_the_study_names(make_study: Any) -> None:
    """Both arms are as good; lora-r8 is the smaller one, and is made the slower one."""

    def slow(record: RunRecord) -> RunRecord:
        if record.spec.arm != "lora-r8" or record.usage is None or record.spec.role != "confirm":
            return record
        return record.replace(usage={**record.usage.model_dump(), "train_seconds": 99.0})

    found = {cost: build_report(make_study(study={"margin": "0.1", "cost": cost}, change=slow)) for cost in COSTS}
    recommended = {cost: report.recommended_arm for cost, report in found.items()}
    assert recommended == dict(zip(COSTS, ("lora-r8", "lora-r16-all", "lora-r8"), strict=True))


def test_the_headroom_of_the_search_stands_in_the_verdict(make_study: Any) -> None:
    """With `protocol: adaptive` the lowest point itself is confirmed, and nothing is left."""
    adaptive = build_report(make_study(study={"margin": "0.1"}))
    assert {(v.headroom_of_arm, v.headroom_of_full) for v in adaptive.verdicts} == {(0.0, 0.0)}
    ledger = make_study(study={"margin": "0.1", "protocol": "fixed"})
    for verdict in build_report(ledger).verdicts:
        for arm, shown in ((verdict.arm, verdict.headroom_of_arm), ("full", verdict.headroom_of_full)):
            trials = stored_runs(ledger.folder, arm, "tune")
            best = {run["spec"]["learning_rate"]: min(e["nll"] for e in run["evaluations"]) for run in trials}
            assert shown == pytest.approx(headroom(best))
            assert shown >= 0


def test_the_reference_of_gain_takes_no_share_of_the_error_and_is_not_recommended(make_study: Any) -> None:
    report = build_report(make_study(data={"task": "classify"}))
    assert {verdict.arm: verdict.num_compared for verdict in report.verdicts} == {
        "head": 1,
        "lora-r8": 2,
        "lora-r16-all": 2,
    }
    assert report.recommended_arm != "head"


def test_what_would_decide_stands_on_the_page_and_in_report_json(make_study: Any) -> None:
    ledger = make_study(study={"margin": "0.002"})
    report = write_report(ledger)
    assert report.recommended_arm is None
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    for verdict in report.verdicts:
        assert verdict.would_decide is not None
        assert what_would_decide(verdict.would_decide) in page


def test_a_study_is_judged_by_the_metric_it_names_and_reports_those_it_asks_for(make_study: Any) -> None:
    asked = {"metrics": [{"name": "exact_match"}, {"name": "length"}], "primary": "exact_match", "margin": "2pp"}
    ledger = make_study(study=asked)
    report = write_report(ledger)
    assert report.study.primary_metric == "exact_match"
    assert {verdict.metric for verdict in report.verdicts} == {"exact_match"}
    assert {verdict.margin_absolute for verdict in report.verdicts} == {0.02}
    assert {verdict.headroom_of_full for verdict in report.verdicts} == {None}, "trials measure NLL, not this metric"
    first = stored_runs(ledger.folder, "full", "confirm")[0]["run_id"]
    rows = pq.ParquetFile(ledger.scores_path(first)).read().to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    for arm in report.arms:
        assert list(arm.metrics) == ["nll", "perplexity", "bits_per_byte", "exact_match", "length"]
    found = report.arm("full").metrics
    assert found["exact_match"].per_seed[0] == pytest.approx(
        np.mean([dict(r["statistics"])["exact_match"] for r in test])
    )
    assert found["length"].per_seed[0] == pytest.approx(np.mean([row["num_generated"] for row in test]))
    assert "exact match" in (ledger.folder / "report.html").read_text(encoding="utf-8")


def test_a_study_reports_and_is_judged_by_a_metric_of_its_own(make_study: Any) -> None:
    asked = {"metrics": [{"name": "last_number", "extract": r"(\d+)\D*$"}], "primary": "last_number", "margin": "2pp"}
    ledger = make_study(study=asked)
    report = write_report(ledger)
    assert {verdict.metric for verdict in report.verdicts} == {"last_number"}
    hits = report.arm("full").metrics["last_number"].mean
    assert hits is not None
    assert 0 < hits < 1
    assert "last number" in (ledger.folder / "report.html").read_text(encoding="utf-8")
    assert "last_number" not in METRICS, "reading a study changes no table of this process"


def test_an_arm_trained_elsewhere_is_scored_without_seeds_or_costs(make_study: Any) -> None:
    arms = {"full": {"method": "full"}, "theirs": {"method": "existing", "path": "somewhere/adapter"}}
    report = write_report(make_study(study={"arms": arms}, data={"existing": {"theirs": "e" * 64}}))
    theirs = report.arm("theirs")
    assert theirs.train_seconds is None
    assert theirs.learning_rate is None
    assert len(theirs.metrics["nll"].per_seed) == 1
    assert [verdict.arm for verdict in report.verdicts] == ["theirs"]


def test_a_confirmation_run_that_diverged_stays_in_the_comparison(make_study: Any) -> None:
    def diverge(record: RunRecord) -> RunRecord:
        if (record.spec.arm, record.spec.role, record.spec.seed) != ("lora-r8", "confirm", 2):
            return record
        return record.replace(status="diverged", evaluations=[e.model_dump() for e in record.evaluations[:1]])

    report = build_report(make_study(change=diverge))
    assert len(report.arm("lora-r8").metrics["nll"].per_seed) == 3
    assert [f.evidence for f in report.warnings if f.id == "confirmation-diverged"] == ["lora-r8: 1; seeds 2"]
    of_arm, other = report.verdicts
    assert of_arm.diverged_runs == {"lora-r8": 1}
    assert "1 of 3 runs of lora-r8 diverged" in of_arm.sentence
    assert not other.diverged_runs


def short_of_memory(arm: str, role: str) -> Any:
    def change(record: RunRecord) -> RunRecord:
        if (record.spec.arm, record.spec.role) != (arm, role):
            return record
        return record.replace(status="out-of-memory", message="OutOfMemoryError: 40 GiB asked for, 24 GiB there")

    return change


def test_an_arm_that_does_not_fit_is_named_and_the_others_get_their_words(make_study: Any) -> None:
    ledger = make_study(change=short_of_memory("lora-r16-all", "tune"))
    report = write_report(ledger)
    assert [verdict.arm for verdict in report.verdicts] == ["lora-r8"]
    assert report.headline.endswith("No verdict for lora-r16-all: out of memory.")
    assert not report.arm("lora-r16-all").fits_in_memory
    (finding,) = [finding for finding in report.warnings if finding.id == "out-of-memory"]
    assert "40 GiB asked for" in finding.evidence
    assert "out of memory</b>" in (ledger.folder / "report.html").read_text(encoding="utf-8")


def test_without_memory_for_full_the_report_says_what_cannot_be_said(make_study: Any) -> None:
    report = build_report(make_study(change=short_of_memory("full", "confirm")))
    assert report.is_complete
    assert report.verdicts == ()
    assert report.no_verdict is not None
    assert report.no_verdict.startswith("No verdict: full ran out of memory on this machine")
    assert report.arm("lora-r8").metrics, "the other arms keep their figures"


def test_an_arm_that_fits_no_more_at_the_second_look_keeps_the_verdict_of_the_first(make_study: Any) -> None:
    def change(record: RunRecord) -> RunRecord:
        is_it = record.spec.arm == "lora-r8" and record.spec.seed in (4, 5)
        return short_of_memory("lora-r8", "confirm")(record) if is_it else record

    report = build_report(make_study(study={"looks": [3, 5]}, change=change))
    assert report.is_complete
    assert {verdict.arm: verdict.look for verdict in report.verdicts}["lora-r8"] == 3
    assert not report.arm("lora-r8").fits_in_memory


# --- what the report is made of


def test_the_command_of_the_report_names_a_study_file_that_reads_back_as_this_study(
    finished: Ledger, report: Report
) -> None:
    words = shlex.split(report.study.command)
    assert words[:2] == ["tunewise", "compare"]
    assert read_study(Path(words[2])) == finished.study()
    assert not Path(words[words.index("--out") + 1]).exists()


def test_learning_curves_are_sums_over_what_was_trained_on_and_cut_at_the_same_steps() -> None:
    long = [{"step": i, "loss": float(i), "num_targets": 1 + i % 3} for i in range(1, 1001)]
    short = [{**step, "loss": math.nan if step["step"] == 40 else step["loss"]} for step in long[:50]]
    points = thinned(long, 1000)
    assert len(points) <= MAX_TRAIN_POINTS
    width = points[0].step
    first = long[:width]
    expected = sum(s["loss"] * s["num_targets"] for s in first) / sum(s["num_targets"] for s in first)
    assert points[0].nll == pytest.approx(expected)
    assert [p.step for p in thinned(short, 1000)] == [p.step for p in points][: math.ceil(50 / width)]
    assert points[-1].step == 1000


def test_samples_stand_side_by_side_for_base_and_every_arm(report: Report) -> None:
    assert len(report.samples) == 2
    assert all(list(s.outputs) == ["base", "full", "lora-r8", "lora-r16-all"] for s in report.samples)


def test_the_base_comes_first_and_has_no_costs(report: Report) -> None:
    assert [arm.name for arm in report.arms] == ["base", "full", "lora-r8", "lora-r16-all"]
    assert set(report.arms[0].ratio_to_full.values()) == {None}


def test_methods_are_told_with_rank_alpha_and_effective_scale(report: Report) -> None:
    assert report.arm("lora-r8").method == "LoRA r=8, alpha=32 (scale 4), qkv"
    assert report.arm("full").method == "full fine-tuning"


def test_a_rate_far_off_is_an_arrow_and_does_not_flatten_the_curves_of_the_others(make_study: Any) -> None:
    def spoil(record: RunRecord) -> RunRecord:
        """The highest rate of lora-r8 ends 5 nats above the others."""
        if (record.spec.arm, record.spec.role, record.spec.learning_rate) != ("lora-r8", "tune", 0.00419):
            return record
        return record.replace(evaluations=[e.replace(nll=e.nll + 5).model_dump() for e in record.evaluations])

    drawn = {figure.name: figure.wide for figure in figures(build_report(make_study(change=spoil)))}["learning-rates"]
    assert "↑" in drawn
    labels = [float(number) for number in re.findall(r">(\d\.\d+)</text>", drawn)]
    assert labels
    assert max(labels) < 4, "the axis ends where the other rates do"


def test_every_verdict_shows_the_seeds_that_it_was_read_in(make_study: Any) -> None:
    """One arm is decided at three seeds, one goes on to five, as full does: each has its own differences by seed."""
    report = build_report(make_study(study={"looks": [3, 5], "margin": "0.065"}))
    assert {verdict.num_seeds for verdict in report.verdicts} == {3, 5}
    for verdict in report.verdicts:
        assert len(verdict.seed_differences) == verdict.num_seeds == verdict.look
        assert statistics.mean(verdict.seed_differences) == pytest.approx(verdict.difference, abs=1e-12)


def test_the_bar_of_the_gain_kept_ends_where_the_arm_does_and_marks_full(report: Report, page: str) -> None:
    """The track is 1.2 of full's gain long, so full stands at 83.3 % of it."""
    for verdict in report.verdicts:
        assert verdict.gain_kept is not None
        assert f'class="kept" style="--w:{100 * verdict.gain_kept.estimate / 1.2:.1f}%' in page
    assert page.count('class="goal" style="--l:83.3%"') == len(report.verdicts)


def test_the_dashed_parabola_goes_through_the_chosen_rate_and_its_neighbours_and_dips_by_the_headroom(
    report: Report,
) -> None:
    arm = report.arm("lora-r8")
    assert arm.bracket is not None
    assert arm.learning_rate is not None
    losses: dict[float, float | None] = {arm.bracket[0]: 3.0, arm.learning_rate: 2.0, arm.bracket[1]: 2.2}
    rows = [{"arm": arm.name, "rate": rate, "value": loss} for rate, loss in losses.items()]
    bent = list(parabola(arm, rows))
    assert (bent[0]["rate"], bent[-1]["rate"]) == pytest.approx(arm.bracket)
    assert (bent[0]["value"], bent[-1]["value"]) == pytest.approx((3.0, 2.2))
    assert 2.0 - min(row["value"] for row in bent) == pytest.approx(headroom(losses), abs=1e-3)
    assert list(parabola(arm, [{**row, "value": None} for row in rows])) == [], "a rate that did not finish"


def test_an_arm_far_off_does_not_crush_the_others_in_the_forest_plot(make_study: Any) -> None:
    arms = {"full": {"method": "full"}, "lora-r8": {"method": "lora", "targets": "qkv"}}
    far = {**arms, "lora-r1-query": {"method": "lora", "rank": 1, "targets": "attention"}}
    drawn = figures(build_report(make_study(study={"arms": far})))
    forest = next(figure for figure in drawn if figure.name == "difference-to-full")
    assert ">→</text>" in forest.wide


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
def test_where_the_chart_library_would_abort_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """V8 ends the whole process if it cannot reserve its addresses, which nothing can catch."""
    monkeypatch.setattr("resource.getrlimit", lambda kind: (20 * 2**30, 20 * 2**30))
    with pytest.raises(StudyError, match=r"allows 20.0 GiB of addresses \(`ulimit -v`\)"):
        to_svg(None)
    monkeypatch.setattr("resource.getrlimit", lambda kind: (12, 12))
    with pytest.raises(StudyError, match=r"allows 12 open files \(`ulimit -n`\)"):
        to_svg(None)

"""Advice repeats what the records say: it names an arm where a verdict does, cites its runs, and is silent else."""

import re
from collections.abc import Callable

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.desk.report.compose.advice import TOPICS
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.terminal.text import print_advice, print_report
from tunewise.desk.report.views.advice_view import Advice, AdviceItem
from tunewise.desk.report.views.view import Report
from tunewise.desk.report.wording import OUTCOMES
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger

StudyWriter = Callable[..., Ledger]
FULL = {"method": "full"}
WEAK = {"method": "lora", "rank": 1, "targets": "qkv"}
QUICK = {"tuning": {"half_steps": False}}


def advice_of(report: Report) -> Advice:
    assert report.advice is not None
    return report.advice


def items(advice: Advice) -> dict[str, AdviceItem]:
    return {item.topic: item for item in advice.items}


def says_no_more(report: Report) -> None:
    """Every outcome in the advice is that of the verdict, and an arm is named only by a verdict."""
    advice = advice_of(report)
    verdicts = {verdict.arm: verdict for verdict in report.verdicts}
    for one in advice.alternatives:
        if one.arm in verdicts:
            assert one.standing.startswith(OUTCOMES[verdicts[one.arm].outcome])
    assert tuple(item.topic for item in advice.items) == TOPICS
    if advice.arm is None:
        assert all(item.say is None and not item.runs for item in advice.items)
    elif advice.arm == report.study.full_arm:
        assert {v.outcome for v in report.verdicts if v.arm != report.study.reference_arm} == {"worse"}
    else:
        assert verdicts[advice.arm].outcome in ("as good", "better")
        assert advice.arm == report.recommended_arm


def test_the_arm_that_the_verdicts_recommend_is_named_with_its_own_runs_and_figures(finished: Ledger) -> None:
    report = build_report(finished)
    advice = advice_of(report)
    says_no_more(report)
    assert advice.arm == report.recommended_arm == "lora-r8"
    confirmed, tried = (
        {r.run_id for r in finished.records() if (r.spec.arm, r.spec.role) == ("lora-r8", role)}
        for role in ("confirm", "tune")
    )
    found = items(advice)
    assert set(found["method"].runs) == confirmed
    assert set(found["learning rate"].runs) == tried
    verdict = next(v for v in report.verdicts if v.arm == "lora-r8")
    assert verdict.sentence in found["method"].reason
    assert found["method"].say == "lora-r8: LoRA r=8, alpha=32 (scale 4), qkv"
    assert (found["rank"].say, found["targets"].say, found["epochs"].say) == ("8", "qkv", "2")
    assert found["learning rate"].say == f"{report.arm('lora-r8').learning_rate:g}"
    assert "no others were compared at equal parameter budget" in found["targets"].reason
    assert "No other length was tried" in found["epochs"].reason
    assert {one.arm for one in advice.alternatives} == {"full", "lora-r16-all"}
    for one in advice.alternatives:
        view = report.arm(one.arm)
        assert (one.trainable_parameters, one.train_seconds) == (view.trainable_parameters, view.train_seconds)
        assert (one.peak_memory_bytes, one.saved_bytes) == (view.peak_memory_bytes, view.saved_bytes)
    assert any("targets: auto" in text for text in advice.missing)
    assert any("rank: auto" in text for text in advice.missing)


def test_rank_auto_is_not_recommended_to_arms_on_experts_which_cannot_have_it(make_study: StudyWriter) -> None:
    def on_experts(record: RunRecord) -> RunRecord:
        if record.tuned is None or record.tuned.scale is None:
            return record
        return record.replace(tuned=record.tuned.replace(num_expert_tensors=4))

    missing = advice_of(build_report(make_study(change=on_experts))).missing
    assert [text for text in missing if "Lower ranks" in text] == [
        "Lower ranks were not tested. Add an arm with a lower rank: `rank: auto` cannot truncate adapters on experts."
    ]


def test_before_a_look_is_complete_nothing_is_recommended(make_study: StudyWriter) -> None:
    report = build_report(make_study(max_runs=12))
    says_no_more(report)
    advice = advice_of(report)
    assert advice.arm is None
    assert advice.items[0].reason == report.no_verdict
    assert "The runs up to the first look are missing." in advice.missing


def test_a_finding_that_blocks_leaves_no_recommendation_and_is_named(make_study: StudyWriter) -> None:
    fixed = {"method": "lora", "rank": 8, "targets": "qkv", "rates": [2e-3]}
    report = build_report(make_study(study={"arms": {"full": FULL, "lora-r8": fixed}}))
    says_no_more(report)
    advice = advice_of(report)
    assert advice.arm is None
    assert "fairness rules withhold verdicts" in advice.items[0].reason
    assert "unequal-tuning-rule" in advice.items[0].reason
    blocking = [finding for finding in report.warnings if finding.severity == "blocks"]
    assert all(any(finding.sentence in text for text in advice.missing) for finding in blocking)


def test_an_undecided_arm_is_not_recommended_nor_full_beside_it(make_study: StudyWriter) -> None:
    arms = {"full": FULL, "lora-r8": {"method": "lora", "targets": "qkv"}, "lora-r1-query": WEAK}
    report = build_report(make_study(study={"arms": arms, "margin": "0.0005", **QUICK}))
    says_no_more(report)
    advice = advice_of(report)
    assert {verdict.arm: verdict.outcome for verdict in report.verdicts} == {
        "lora-r8": "undecided",
        "lora-r1-query": "worse",
    }
    assert advice.arm is None
    assert "the verdict on lora-r8 is inconclusive" in advice.items[0].reason


def test_where_every_arm_is_worse_it_is_full_and_the_cause_is_asked_for(make_study: StudyWriter) -> None:
    report = build_report(make_study(study={"arms": {"full": FULL, "lora-r1-query": WEAK}, **QUICK}))
    says_no_more(report)
    advice = advice_of(report)
    assert advice.arm == "full"
    found = items(advice)
    assert found["method"].say == "full: full fine-tuning"
    assert "lora-r1-query is worse by 0.2" in found["method"].reason
    assert (found["rank"].say, found["targets"].say) == (None, None)
    assert found["learning rate"].say is not None
    assert any("`extract` in the full arm" in text for text in advice.missing)


def test_with_an_extraction_the_cause_stands_where_the_rank_would(make_study: StudyWriter) -> None:
    arms = {"full": {**FULL, "extract": {"qkv": [1]}}, "lora-r1-query": WEAK}
    report = build_report(make_study(study={"arms": arms, **QUICK}))
    says_no_more(report)
    reason = items(advice_of(report))["rank"].reason
    assert report.capacity.low_rank is not None
    assert reason == report.capacity.low_rank.causes[0]
    assert not any("`extract` in the full arm" in text for text in advice_of(report).missing)


def test_one_good_arm_is_named_though_another_is_worse(make_study: StudyWriter) -> None:
    arms = {
        "full": FULL,
        "lora-r16-all": {"method": "lora", "rank": 16, "targets": "all-linear"},
        "lora-r1-query": {**WEAK, "targets": "all-linear"},
    }
    report = build_report(make_study(study={"arms": arms, **QUICK, "protocol": "fixed", "looks": [3]}))
    says_no_more(report)
    advice = advice_of(report)
    assert advice.arm == "lora-r16-all"
    assert "rank 1 (lora-r1-query): worse by 0.2" in items(advice)["rank"].reason
    standing = {one.arm: one.standing for one in advice.alternatives}
    assert standing["full"] == "reference of the comparison"
    assert standing["lora-r1-query"].startswith("worse by 0.2")


def test_changed_declarations_leave_nothing_to_recommend(finished: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.desk.report.compose.build.changed", lambda *asked: ("margin",))
    report = build_report(finished)
    assert advice_of(report).arm is None
    assert "Exploratory" in advice_of(report).items[0].reason


def test_it_is_the_last_section_of_every_output_and_the_command_prints_it_alone(make_study: StudyWriter) -> None:
    ledger = make_study()
    report = write_report(ledger)
    advice = advice_of(report)
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", page)[-1] == "Advice"
    alone, whole = Console(record=True, width=80), Console(record=True, width=80)
    print_advice(report, alone)
    print_report(report, whole, ledger.folder)
    text = alone.export_text()
    assert text.strip() in whole.export_text()
    for item in advice.items:
        assert re.sub(r"\s+", " ", item.reason) in re.sub(r"\s+", " ", text)
        assert item.reason in page.replace("&#39;", "'").replace("&#34;", '"')
    given = CliRunner().invoke(app.app, ["report", str(ledger.folder), "--advice"])
    assert given.exit_code == 0
    assert "advice" in given.stdout
    assert "lora-r16-all" in given.stdout
    assert report.headline not in given.stdout

"""Where a fairness rule blocks, no output says a word; where it does not, every output says it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunewise.desk.fairness import Finding, hold_back
from tunewise.desk.fairness.finding import WORDS
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.terminal.listing import print_listing
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.verdict import Verdict
from tunewise.storage.ledger import Ledger

Make = Callable[..., Ledger]

LORA = {"method": "lora", "rank": 16, "targets": "all-linear"}
OTHER = {"method": "lora", "rank": 8, "targets": "all-linear"}
FAIR = {"full": {"method": "full"}, "lora-r16-all": LORA, "other": OTHER}
UNTUNED_FULL = {**FAIR, "full": {"method": "full", "rates": [1e-6]}}
UNTUNED_LORA = {**FAIR, "other": {**OTHER, "rates": [1e-6]}}
SAID = ("as good as full", "better than full", "worse than full", "better", "as good", "worse")


def outputs(ledger: Ledger, arms: tuple[str, ...]) -> dict[str, str]:
    """What each output says of these arms: the verdicts of report.json, their cards of the page, terminal, list."""
    report = write_report(ledger)
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        print_report(report, console, Path("folder"))
    terminal = captured.get()
    with console.capture() as captured:
        print_listing(ledger.folder.parent, console)
    listing = captured.get()
    stored = json.loads((ledger.folder / "report.json").read_text(encoding="utf-8"))
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    cards = [card.split("</article>")[0] for card in page.split('<article class="card verdict')[1:]]
    said = [verdict for verdict in stored["verdicts"] if verdict["arm"] in arms]
    shown = ("outcome", "remark", "sentence", "lean", "reason")
    return {
        "json": json.dumps([{name: verdict[name] for name in shown} for verdict in said]),
        "html": "".join(card.split('<p class="difference')[0] + card.split("</dl>")[1] for card in cards),
        "terminal": "\n".join(line for line in terminal.splitlines() if line.split()[:1] and line.split()[0] in arms),
        "list": "; ".join(part for part in listing.split(";") if any(f"{arm}: " in part for arm in arms)),
        "headline": report.headline,
    }


def test_against_a_full_arm_at_one_rate_nobody_tuned_no_output_says_a_word(make_study: Make) -> None:
    ledger = make_study(study={"arms": UNTUNED_FULL})
    assert [f.arms for f in build_report(ledger).warnings if f.id == "unequal-tuning-rule"] == [("full",)]
    for name, text in outputs(ledger, ("lora-r16-all", "other")).items():
        assert text, name
        for word in SAID:
            assert word not in text.replace("lower is better", ""), f"{name}: {text}"
    report = build_report(ledger)
    assert "unequal-tuning-rule" in report.headline
    assert report.recommended_arm is None
    assert {verdict.would_decide for verdict in report.verdicts} == {None}


def test_the_same_study_tuned_by_the_rule_says_a_word_in_every_output(make_study: Make) -> None:
    ledger = make_study(study={"arms": FAIR, "looks": [5], "margin": "0.2"})
    for name, text in outputs(ledger, ("lora-r16-all", "other")).items():
        assert any(word in text for word in SAID), f"{name}: {text}"


def verdict_on(report: Report, arm: str) -> Verdict:
    return next(verdict for verdict in report.verdicts if verdict.arm == arm)


def test_an_untuned_arm_blocks_its_own_comparison_and_no_other(make_study: Make) -> None:
    report = build_report(make_study(study={"arms": UNTUNED_LORA, "margin": "0.2"}))
    blocked, fair = verdict_on(report, "other"), verdict_on(report, "lora-r16-all")
    assert blocked.outcome == "undecided"
    assert blocked.blocked_by == ("unequal-tuning-rule", "optimum-at-edge")
    assert fair.blocked_by == ()
    assert fair.outcome in WORDS
    assert report.recommended_arm == "lora-r16-all"
    assert f"lora-r16-all is {fair.outcome}" in report.headline
    assert "Verdict withheld for other: unequal-tuning-rule, optimum-at-edge" in report.headline


def test_the_head_arm_at_the_edge_of_its_rates_blocks_no_other_arm(make_study: Make) -> None:
    def rising(record: Any) -> Any:
        if record.spec.arm != "head":
            return record
        rate = record.spec.learning_rate
        return record.replace(evaluations=[{**e.model_dump(), "accuracy": 0.9 - rate} for e in record.evaluations])

    report = build_report(make_study(data={"task": "classify"}, change=rising))
    assert "optimum-at-edge" in verdict_on(report, "head").blocked_by
    assert verdict_on(report, "lora-r8").blocked_by == ()
    assert "head-rate-at-edge" in {finding.id for finding in report.warnings}


def test_a_finding_on_the_data_blocks_every_comparison(make_study: Make) -> None:
    report = build_report(make_study(study={"data": {"train": "builtin:stdlib", "duplicates": "keep"}}))
    assert len(report.verdicts) == 2
    assert {verdict.blocked_by for verdict in report.verdicts} == {("leakage-kept",)}
    assert {verdict.outcome for verdict in report.verdicts} == {"undecided"}
    assert report.warnings[0].severity == "blocks"


# --- the mechanism alone


def finding(forbids: tuple[str, ...], arms: tuple[str, ...] = ()) -> Finding:
    content = {"id": "a-rule", "severity": "blocks" if forbids else "warns", "sentence": "s", "evidence": "e"}
    return Finding.model_validate({**content, "arms": arms, "forbids": forbids})


@pytest.fixture(scope="module")
def verdict(finished: Ledger) -> Verdict:
    return verdict_on(build_report(finished), "lora-r8")


@pytest.mark.parametrize("forbidden", WORDS)
@pytest.mark.parametrize("outcome", WORDS)
def test_a_finding_holds_back_the_words_that_it_forbids_and_no_other(
    verdict: Verdict, forbidden: str, outcome: str
) -> None:
    said = verdict.replace(outcome=outcome, reason=None)
    held = hold_back(said, [finding((forbidden,))])
    assert (held.outcome == "undecided") == (forbidden == outcome)
    assert held.blocked_by == (("a-rule",) if forbidden == outcome else ())


def test_where_worse_is_forbidden_no_remark_says_it_either(verdict: Verdict) -> None:
    said = verdict.replace(outcome="as good", reason=None, remark="measurably worse, within the margin")
    assert hold_back(said, [finding(("worse",))]).remark is None
    assert hold_back(said, [finding(("better",))]).remark == said.remark


def test_findings_that_warn_or_are_about_other_arms_hold_nothing_back(verdict: Verdict) -> None:
    said = verdict.replace(outcome="as good", reason=None)
    assert hold_back(said, [finding(()), finding(WORDS, arms=("lora-r16-all",))]) == said
    for arm in ("lora-r8", "full"):
        assert hold_back(said, [finding(WORDS, arms=(arm,))]).outcome == "undecided"


def test_a_finding_that_blocks_forbids_something_and_one_that_warns_forbids_nothing() -> None:
    with pytest.raises(ValueError, match="if, and only if, it blocks"):
        Finding(id="a", severity="blocks", sentence="s", evidence="e")
    with pytest.raises(ValueError, match="if, and only if, it blocks"):
        Finding(id="a", severity="warns", sentence="s", evidence="e", forbids=("worse",))

"""A second declared metric: one error for both, the primary decides when an arm ends, and both are shown."""

from typing import Any

import pytest
from rich.console import Console

from tunewise.desk.report.compose.build import build_report, headline
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.study.declarations import changed, declarations
from tunewise.desk.study.state import StudyState

BITS = {"metric": "bits_per_byte", "margin": "0.1"}
HOPELESS = {"metric": "bits_per_byte", "margin": "1e-9"}


def one_sided(report: Any) -> list[float]:
    return sorted((1 - verdict.confidence) / 2 for verdict in report.verdicts)


def test_both_metrics_of_all_arms_share_one_error(make_study: Any) -> None:
    alone, beside = (
        build_report(make_study(study={"margin": "0.1", "secondary": second})) for second in (None, HOPELESS)
    )
    assert one_sided(alone) == pytest.approx([0.025 / 2, 0.025])
    assert one_sided(beside) == pytest.approx([0.025 / 4, 0.025 / 3])
    assert {verdict.num_compared for verdict in alone.verdicts} == {2}
    for verdict in beside.verdicts:
        second = verdict.secondary
        assert verdict.outcome == "as good"
        assert second is not None
        assert (verdict.num_compared, second.num_compared) == (4, 4)
        assert (second.metric, second.margin_absolute, second.outcome) == ("bits_per_byte", 1e-9, "undecided")
        assert (1 - second.confidence) / 2 == pytest.approx(0.025 / 4), "it may have a verdict in two ways"
        assert second.headroom_of_full is None, "the trials did not measure it"


def test_a_second_metric_of_the_search_is_judged_with_its_headroom(make_study: Any) -> None:
    study = {"primary": "bits_per_byte", "margin": "0.1", "secondary": {"metric": "nll", "margin": "0.1"}}
    for verdict in build_report(make_study(study=study)).verdicts:
        assert verdict.headroom_of_full is None
        assert verdict.secondary is not None
        assert verdict.secondary.headroom_of_full is not None


def test_the_primary_metric_alone_decides_where_an_arm_ends(make_study: Any) -> None:
    decided = build_report(make_study(study={"looks": [3, 5], "margin": "0.15", "secondary": HOPELESS}))
    assert decided.is_complete
    assert decided.study.went_on == ()
    study = {"looks": [3, 5], "margin": "0.06", "secondary": {**BITS, "margin": "5"}}
    mixed = build_report(make_study(study=study))
    (on,) = mixed.study.went_on
    assert 0 < len(on) < len(mixed.verdicts), "the margin is chosen so that one arm is decided at once"
    for verdict in mixed.verdicts:
        assert verdict.secondary is not None
        assert verdict.secondary.outcome in ("better", "as good")
        assert verdict.num_seeds == verdict.secondary.num_seeds == (5 if verdict.arm in on else 3)
        assert (verdict.num_compared, verdict.secondary.num_compared) == (4, 4), "an arm that ended keeps both places"


def test_terminal_page_and_json_show_the_second_verdict_beside_the_first(make_study: Any) -> None:
    ledger = make_study(study={"margin": "0.1", "secondary": BITS})
    report = write_report(ledger)
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    console = Console(record=True, width=400)
    print_report(report, console, ledger.folder)
    text = console.export_text()
    assert len(report.verdicts) == 2
    for verdict in report.verdicts:
        shown = verdict.secondary_sentence
        assert shown is not None
        assert shown.startswith("Second metric, bits per byte: as good")
        assert "CI" in shown
        assert shown in page
        assert shown in text
        assert "bits per byte" not in verdict.sentence
    assert "4 comparisons" in page


def test_what_withholds_the_first_verdict_withholds_the_second(make_study: Any) -> None:
    report = build_report(make_study(study={"margin": "0.1", "secondary": BITS, "tuning": {"rates": 1}}))
    for verdict in report.verdicts:
        assert verdict.secondary is not None
        assert (verdict.secondary.outcome, verdict.secondary.reason) == ("undecided", "optimum not bracketed")
    ledger = make_study(study={"margin": "0.1", "secondary": BITS})
    ledger.store_study(ledger.study().replace(secondary={**BITS, "margin": "0.2"}))
    report = build_report(ledger)
    assert report.declarations_changed == ("secondary",)
    for verdict in report.verdicts:
        assert verdict.secondary is not None
        assert verdict.secondary.outcome == "undecided"
        assert verdict.secondary_sentence is not None
        assert "verdict withheld" in verdict.secondary_sentence


def test_the_second_metric_is_declared_and_without_one_nothing_changes(make_study: Any) -> None:
    state = StudyState.read(make_study(study={"margin": "0.1", "secondary": BITS}))
    declared = declarations(state.study, state.data)
    assert declared["secondary"]["metric"] == "bits_per_byte"
    without = declarations(state.study.replace(secondary=None), state.data)
    assert without == {key: value for key, value in declared.items() if key != "secondary"}
    assert changed(without, state.study, state.data, state.records) == ("secondary",)


def test_the_headline_names_an_arm_that_is_worse_in_the_second_metric(make_study: Any) -> None:
    report = build_report(make_study(study={"margin": "0.1", "secondary": BITS}))
    first = report.verdicts[0]
    assert first.secondary is not None
    worse = first.replace(secondary=first.secondary.replace(outcome="worse"))
    assert headline([worse]).endswith(f"within the margin. {first.arm} is worse in bits per byte.")
    assert "bits per byte" not in report.headline

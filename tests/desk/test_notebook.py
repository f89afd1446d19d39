"""What a notebook shows of a result: the verdicts and charts of the report, and nothing that runs."""

import re
from pathlib import Path
from typing import Any

from tunewise.commands.report import StudyResult
from tunewise.desk.report.compose.build import build_report
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger

SCRIPT = "<script>alert(1)</script>"


def test_a_notebook_shows_verdicts_intervals_and_charts(finished: Ledger) -> None:
    result = StudyResult(finished.folder, build_report(finished))
    shown = result._repr_html_()
    for verdict in result.report.verdicts:
        assert f"</span> {verdict.arm}</th>" in shown
    assert shown.count("% CI ") >= 2 * len(result.report.verdicts), "in the table and in the sentence"
    assert shown.count("<svg role=") == 3
    assert not re.search(r"<script|src=|href=|@import|url\(", shown), "the cell loads nothing"


def test_the_text_of_a_result_is_short(finished: Ledger) -> None:
    result = StudyResult(finished.folder, build_report(finished))
    assert all(verdict.sentence in repr(result) for verdict in result.report.verdicts)
    assert len(repr(result)) < 1000 * (1 + len(result.report.verdicts)), "once it was the whole report"


def test_text_of_others_is_escaped(make_study: Any) -> None:
    def hostile(record: RunRecord) -> RunRecord:
        return record.replace(warnings=[SCRIPT])

    result = StudyResult(Path(SCRIPT), build_report(make_study(change=hostile, max_runs=4, study={"model": SCRIPT})))
    assert SCRIPT not in result._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_()

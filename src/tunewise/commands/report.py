"""Read a study folder and build its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.export import check_path, export_records
from tunewise.desk.report.lessons import NONE
from tunewise.desk.report.views.view import Report
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import reporting


@dataclass(frozen=True, repr=False)
class StudyResult:
    """A finished study: its report as typed objects, and its folder."""

    folder: Path
    report: Report
    unfinished: tuple[str, ...] = ()  # a line for every requested run that was lost; (): none was

    def __repr__(self) -> str:
        verdicts = "".join(f"\n- {verdict.sentence}" for verdict in self.report.verdicts)
        return f"StudyResult of {self.folder}: {self.report.headline}{verdicts}"

    def _repr_html_(self) -> str:
        """Verdicts, intervals and charts, as Jupyter shows the value of a cell."""
        from tunewise.desk.report.pages.notebook import to_notebook  # loads the charts' libraries

        return to_notebook(self.report, str(self.folder))

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per arm, ready for `pandas.DataFrame`."""
        flat = []
        for arm in self.report.arms:
            row = {k: v for k, v in arm.model_dump().items() if isinstance(v, str | int | float | None)}
            for name, metric in arm.metrics.items():
                row |= {name: metric.mean, f"{name}_low": metric.low, f"{name}_high": metric.high}
            flat.append(row)
        return flat


def written(ledger: Ledger, missing: tuple[str, ...] = ()) -> StudyResult:
    """The study with its report, which is written; `missing` lists lost runs. Raises StudyError."""
    with reporting(ledger.folder):
        return StudyResult(ledger.folder, write_report(ledger), missing)


def report(folder: Path | str) -> StudyResult:
    """Report of a study folder, rebuilt from its records without training. Raises StudyError."""
    return written(Ledger.open(Path(folder)))


def write_report(ledger: Ledger) -> Report:
    """Report of a study folder, also written there: report.json, report.html and figures/."""
    from tunewise.desk.report.pages import (
        html,  # loads the charts' libraries: half a second, which reading does not need
    )

    return html.write_report(ledger)


def read_reports(folders: Sequence[Path | str], records: Path | None = None) -> list[StudyResult]:
    """Reports of study folders from their records; nothing is written.

    Raises StudyError, also if the runs cannot be exported to `records`.
    """
    if records:
        check_path(records)
    ledgers = [Ledger.open(Path(folder)) for folder in folders]
    return [StudyResult(ledger.folder, build_report(ledger)) for ledger in ledgers]


def write_files(result: StudyResult, lessons: Mapping[str, str] = NONE) -> None:
    """Write the report into its study folder: report.json, report.html and figures/. Raises StudyError."""
    from tunewise.desk.report.pages import html

    with reporting(result.folder):
        html.write_pages(result.folder, result.report, lessons)


def export(folders: Sequence[Path | str], path: Path | str) -> int:
    """Write all runs to `path` (.csv or .parquet), one row each, and return their number. Raises StudyError."""
    return export_records({str(folder): Ledger.open(Path(folder)) for folder in folders}, Path(path))

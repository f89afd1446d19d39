"""Write report.json, figures/*.svg and report.html, a single page that loads nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from tunewise.desk.analysis.costs import COST_NAMES
from tunewise.desk.metrics.metrics import METRICS, Metric, metric_named
from tunewise.desk.report import rows, search_words, wording
from tunewise.desk.report.charts.canvas import THEME, colours, standalone
from tunewise.desk.report.charts.charts import Figure, figures
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.glossary import meaning
from tunewise.desk.report.lessons import NONE
from tunewise.desk.report.pages.templates import environment
from tunewise.desk.report.stored import REPORT, report_text
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.verdict import Verdict, margin_in_units
from tunewise.spec import ARM_NAME
from tunewise.storage.disk import delete, make_folder, sweep, write_atomically
from tunewise.storage.ledger import Ledger
from tunewise.text import numbers

TEMPLATE = "report.html.j2"
GAIN_TRACK = 1.2  # of full's gain; leaves room for an arm that gains more
# names of all figures, including those that this report has no data for
FIGURE = re.compile(
    "difference-to-full|training-loss|validation|learning-rates|learning-and-forgetting|forgetting-by-rate|"
    f"quality-against-cost|ranks-{ARM_NAME}"
)
MARGIN_TRACK = 1.4  # of the larger of two margins; leaves room to the right of both
BADGES = {"as good": "✓", "better": "↑", "worse": "↓", "undecided": "?"}


def write_report(ledger: Ledger) -> Report:
    """Write report.json, report.html and figures/ of a study folder, and return the report.

    Raises StudyError if the folder holds no prepared data, or damaged files.
    """
    report = build_report(ledger)
    write_pages(ledger.folder, report)
    return report


def write_pages(study_folder: Path, report: Report, lessons: Mapping[str, str] = NONE) -> None:
    """Write figures/, report.json and report.html into the study's folder; `lessons` explain the page's sections."""
    drawn = figures(report)
    page = to_html(report, drawn, lessons)
    folder = make_folder(study_folder / "figures")
    sweep([*folder.iterdir(), *study_folder.glob("report.*")])
    for figure in drawn:
        write_atomically(folder / f"{figure.name}.svg", standalone(figure.wide))
    for path in folder.glob("*.svg"):
        if FIGURE.fullmatch(path.stem) and path.stem not in {figure.name for figure in drawn}:
            delete(path)  # from an earlier report; other files in this folder are not ours
    write_atomically(study_folder / REPORT, report_text(report))
    write_atomically(study_folder / "report.html", page)


def to_html(report: Report, drawn: tuple[Figure, ...], lessons: Mapping[str, str] = NONE) -> str:
    """The HTML page. All text from study, data and models is escaped."""
    template = environment(Path(__file__).parent).get_template(TEMPLATE)
    return template.render(
        report=report,
        headline=_keep_names(report),
        cards=[v for v in report.verdicts if v.arm != report.study.reference_arm] or report.verdicts,
        gain_bars={verdict.arm: _gain_bar(verdict.gain_kept) for verdict in report.verdicts if verdict.gain_kept},
        margin_strips={verdict.arm: _margin_strip(verdict) for verdict in report.verdicts},
        primary=metric_named(report.study.primary_metric),
        metric_named=metric_named,
        others=_other_metrics(report),
        badges=BADGES,
        colours=colours(report),
        figures={figure.name: inline(figure) for figure in drawn},
        theme=THEME,
        bars=_bars(report),
        words=wording,
        meaning=meaning,
        searches=search_words,
        numbers=numbers,
        rows=rows,
        lessons=lessons,
    )


def _other_metrics(report: Report) -> list[Metric]:
    """Measured metrics other than that of the verdict, the built-in ones first."""
    measured = dict.fromkeys(report.arms[0].metrics)
    names = [name for name in (*METRICS, *measured) if name in measured and name != report.study.primary_metric]
    return [metric_named(name) for name in dict.fromkeys(names)]


def inline(figure: Figure) -> dict[str, Any]:
    """A figure for the page; its SVG is generated here, so it is not escaped."""
    label = Markup('<svg role="img" aria-label="{}" ').format(f"{figure.title}. {figure.caption}")
    sizes = {size: Markup(getattr(figure, size).replace("<svg ", label, 1)) for size in ("wide", "narrow")}
    return {"title": figure.title, "caption": figure.caption, **sizes}


def _keep_names(report: Report) -> Markup:
    """The headline, with line breaks inside arm names and "fine-tuning" only if unavoidable."""
    names = sorted((re.escape(name) for name in ("fine-tuning", *(arm.name for arm in report.arms))), key=len)[::-1]
    pieces = re.split(rf"(?<![\w-])((?:{'|'.join(names)})(?![\w-])[;,.:]?)", report.headline)
    name = Markup('<span class="keep">{}</span>')
    return Markup("").join(name.format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces))


def _gain_bar(kept: Estimate) -> dict[str, float | None]:
    """End of the bar of the gain kept, and its interval, in percent of a track from 0 to GAIN_TRACK gains."""

    def place(share: float) -> float:
        return round(100 * min(max(share, 0.0), GAIN_TRACK) / GAIN_TRACK, 1)

    ends = None if kept.low is None or kept.high is None else (place(kept.low), place(kept.high))
    return {
        "kept": place(kept.estimate),
        "low": None if ends is None else ends[0],
        "width": None if ends is None else round(ends[1] - ends[0], 1),
        "full": place(1.0),
    }


def _margin_strip(verdict: Verdict) -> dict[str, float] | None:
    """Where "as good" begins and where the declared margin is, in percent of a track of margins from 0."""
    least, declared = verdict.smallest_margin_as_good, margin_in_units(verdict)
    if not least or not declared:
        return None
    end = MARGIN_TRACK * max(least, declared)
    return {"least": round(100 * least / end, 1), "declared": round(100 * declared / end, 1)}


def _bars(report: Report) -> dict[str, dict[str, float]]:
    """Cost -> arm -> percent of the largest arm."""
    found: dict[str, dict[str, float]] = {}
    for name in COST_NAMES:
        known = {arm.name: value for arm in report.tuned_arms() if (value := getattr(arm, name))}
        largest = max(known.values(), default=1.0)
        found[name] = {arm: 100 * value / largest for arm, value in known.items()}
    return found

"""Shared style of all charts: colors, fonts, axes, and the conversion to SVG.

Ink and grid have fixed colors that nothing else uses (THEME), so that a style sheet can replace them. The page does so
in dark mode, and every file in figures/ contains such a rule.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from tunewise.desk.report.views.view import Report
from tunewise.errors import StudyError
from tunewise.spec import BASES
from tunewise.text.safe import pictured

# Role -> (on light, on dark). The SVG contains the light color.
THEME = {
    "ink": ("#1c2430", "#e6eaf0"),
    "muted": ("#5b6675", "#9aa6b5"),
    "axis": ("#b8c0cb", "#4a5563"),
    "grid": ("#e6e9ee", "#262e39"),
    "surface": ("#fefefe", "#151a21"),
}
INK, MUTED, AXIS, GRID, SURFACE = (light for light, _ in THEME.values())

# Mid-tones with a contrast of at least 3 on white and on near-black, distinguishable with any color vision
# (hues after Okabe & Ito 2008). The base is gray, full comes first, the others in the order of the study.
BASE_COLOUR = "#8a8f98"
PALETTE = ("#3b82c9", "#d97321", "#1a9a76", "#b763c9", "#c9506e", "#8f8a1c", "#4fa3b5", "#9a6b4f")

# Metric-compatible fonts, so that text has the width measured when the chart was drawn.
FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
NOT_XML = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
ADDRESSES = 96 * 2**30  # bytes that vl-convert's V8 asks for at once; 64 GB are too little
OPEN_FILES = 64  # with those of Python; 12 are too few
LONG_NUMBER = re.compile(r'(?<=[ ,("])-?\d+\.\d{3,}')

Row = dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """Outer width of a chart in pixels, and its font size."""

    width: int
    font_size: int


FULL_WIDTH, HALF_WIDTH, PHONE = Canvas(1040, 13), Canvas(460, 12), Canvas(350, 12)


def colours(report: Report) -> dict[str, str]:
    """Arm -> color, the same in charts and page."""
    tuned = [arm.name for arm in report.tuned_arms()]
    return {
        **dict.fromkeys(BASES.values(), BASE_COLOUR),
        **{name: PALETTE[i % len(PALETTE)] for i, name in enumerate(tuned)},
    }


def to_svg(chart: Any) -> str:
    """The chart as SVG text, coordinates rounded to hundredths of a pixel. Raises StudyError if a limit is too low."""
    _require_room()
    # not validated, which takes half a second; a control character in a text would abort the process in vl-convert
    svg = str(vl_convert.vegalite_to_svg(_shown(chart.to_dict(validate=False))))
    return LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", svg)


def _require_room() -> None:
    """Raises StudyError where `ulimit -n` or `-v` leaves V8 too little, so that it would panic or end the process."""
    if sys.platform != "linux":
        return
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        raise StudyError(
            f"charts cannot be drawn: this shell allows {files} open files (`ulimit -n`), and they need {OPEN_FILES}. "
            f"The runs are kept. Give `ulimit -n {OPEN_FILES}` or more, then `tunewise report FOLDER`."
        )
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and most < ADDRESSES:
        raise StudyError(
            f"charts cannot be drawn: this shell allows {most / 2**30:,.1f} GiB of addresses (`ulimit -v`), and the "
            f"library that draws them reserves {ADDRESSES // 2**30}, almost all of which it never uses. The runs are "
            "kept. Give `ulimit -v unlimited`, then `tunewise report FOLDER`; limit memory with a cgroup instead."
        )


def _shown(content: Any) -> Any:
    """Plain data with every control character in its texts replaced by a visible sign."""
    if isinstance(content, dict):
        return {_shown(key): _shown(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_shown(value) for value in content]
    return NOT_XML.sub("\ufffd", pictured(content)) if isinstance(content, str) else content


def standalone(svg: str) -> str:
    """An SVG file that follows the reader's light or dark mode."""
    rules = "".join(f'[fill="{a}"]{{fill:{b}}}[stroke="{a}"]{{stroke:{b}}}' for a, b in THEME.values())
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return svg.replace(">", f">{style}", 1)


def data(rows: Sequence[Row]) -> Any:
    """Rows as inline chart data."""
    return alt.Data(values=list(rows))


def names(rows: Sequence[Row]) -> list[str]:
    """The arms of `rows`, each once, in order."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def arm_colour(report: Report, shown: Sequence[str], legend: Any = alt.Undefined) -> Any:
    """The color channel of a chart of these arms."""
    of = colours(report)
    scale = alt.Scale(domain=list(shown), range=[of[name] for name in shown])
    return alt.Color("arm:N", title=None, legend=legend, scale=scale)


def styled(chart: Any, canvas: Canvas, height: int) -> Any:
    """The chart at its size, in the style of the report."""
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    # all at once: every call copies the chart with its data
    return chart.properties(width=canvas.width, height=height, autosize=fit, config=_style(canvas))


def _style(canvas: Canvas) -> Any:
    size = canvas.font_size
    return alt.Config(
        font=FONT,
        background="transparent",
        aria=False,
        padding={"left": 6, "right": 14, "top": 6, "bottom": 4},
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=MUTED,
            labelFontSize=size,
            labelLimit=180,
            labelPadding=6,
            titleColor=MUTED,
            titleFontSize=size,
            titleFontWeight="normal",
            titlePadding=10,
            domainColor=AXIS,
            tickColor=AXIS,
            gridColor=GRID,
        ),
        axisY=alt.AxisConfig(
            domain=False, ticks=False, titleAngle=0, titleAlign="left", titleAnchor="start", titleY=-14, titleX=0
        ),
        legend=alt.LegendConfig(
            orient="top",
            direction="horizontal",
            columns=2 if canvas is PHONE else 4,
            labelColor=INK,
            labelFontSize=size + 1,
            labelLimit=150,
            symbolType="circle",
            symbolSize=90,
            symbolOpacity=1,
            symbolStrokeWidth=0,
            offset=34,
            columnPadding=18,
        ),
        text=alt.MarkConfig(font=FONT, fontSize=size),
    )

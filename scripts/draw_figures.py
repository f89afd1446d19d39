"""Draw the figures of docs/learn/ into docs/figures/ from the records in docs/figures/data/ (see record_figures.py).

    python scripts/draw_figures.py [FOLDER]

Every figure is an SVG file that follows the reader's light or dark mode.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow.parquet as pq

from tunewise.desk.report.charts.canvas import INK, MUTED, PALETTE, THEME, Canvas, Row, data, standalone, styled, to_svg
from tunewise.desk.report.terminal.plan import COLOURS, USES

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
CANVAS, HEIGHT = Canvas(720, 14), 340
GPT2 = {"width": 768, "blocks": 12, "parameters": 124_439_808}
MIB = 2**20
BLUE, ORANGE, GREEN, PURPLE = PALETTE[:4]


def recorded(name: str) -> list[Row]:
    """Rows of one file of records."""
    rows: list[Row] = pq.read_table(FIGURES / "data" / f"{name}.parquet").to_pylist()
    return rows


def colour(field: str, of: dict[str, str], *, has_legend: bool = True) -> Any:
    """A color for each name, in this order."""
    scale = alt.Scale(domain=list(of), range=list(of.values()))
    legend = alt.Legend(columns=len(of)) if has_legend else None
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=legend)


def decades(field: str, title: str, powers: range, form: str = "~g") -> Any:
    """A logarithmic vertical axis with a line at each power of ten."""
    scale = alt.Scale(type="log", nice=False, padding=14)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=[10.0**p for p in powers], format=form))


def finished(*layers: Any, height: int = HEIGHT) -> str:
    """The layers as an SVG file."""
    return standalone(to_svg(styled(alt.layer(*layers), CANVAS, height)))


def low_rank_update() -> str:
    """The frozen weight, and B A next to it."""
    ink, muted, line, grid = (THEME[role][0] for role in ("ink", "muted", "axis", "grid"))

    def box(x: int, y: int, size: tuple[int, int], name: str, stroke: str, fill: str) -> str:
        middle = f'x="{x + size[0] // 2}" y="{y + size[1] // 2 + 7}" text-anchor="middle" font-size="22" fill="{ink}"'
        shape = f'<rect x="{x}" y="{y}" width="{size[0]}" height="{size[1]}" rx="4" stroke="{stroke}" fill="{fill}"/>'
        return f'{shape}<text {middle} font-style="italic">{name}</text>'

    def words(x: int, y: int, text: str, fill: str = muted, size: int = 15) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{size}" fill="{fill}">{text}</text>'

    paths = "M70 165H110V90H168 M70 165H110V250H168 M310 90H540V148 M310 250H368 M432 250H540V182 M557 165H630"
    return standalone(
        "".join(
            (
                '<svg class="marks" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 340" width="720" height="340" ',
                'font-family="Arial, sans-serif">',
                f'<path d="{paths}" fill="none" stroke="{muted}" stroke-width="2"/>',
                box(170, 35, (140, 120), "W", line, grid),
                box(170, 233, (140, 34), "A", ORANGE, f"{ORANGE}40"),
                box(370, 190, (60, 120), "B", ORANGE, f"{ORANGE}40"),
                f'<circle cx="540" cy="165" r="17" fill="none" stroke="{muted}" stroke-width="2"/>',
                words(540, 172, "+", ink, 22),
                words(52, 171, "x", ink, 22),
                words(650, 171, "y", ink, 22),
                words(240, 24, "d_out × d_in, frozen"),
                words(240, 290, "r × d_in, random at first"),
                words(400, 328, "d_out × r, zero at first"),
                words(490, 240, "× α / r"),
                "</svg>",
            )
        )
    )


def parameters_by_rank() -> str:
    """Trainable parameters of GPT-2 small against the rank."""
    width, ranks = GPT2["width"], [2**i for i in range(9)]
    # inputs plus outputs of the adapted layers of a block: c_attn; also attn.c_proj, mlp.c_fc and mlp.c_proj
    sizes = {"LoRA, c_attn": 4 * width, "LoRA, all linear": 4 * width + 2 * width + 5 * width + 5 * width}
    rows = [
        {"name": name, "rank": rank, "trained": GPT2["blocks"] * size * rank}
        for name, size in sizes.items()
        for rank in ranks
    ]
    rows += [
        {"name": "full fine-tuning", "rank": rank, "trained": GPT2["parameters"]} for rank in (ranks[0], ranks[-1])
    ]
    names = {"full fine-tuning": BLUE, "LoRA, all linear": GREEN, "LoRA, c_attn": ORANGE}
    x = alt.X("rank:Q", title="rank r", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ranks, grid=False))
    y = decades("trained", "trainable parameters", range(4, 9), "~s")
    shared = alt.Chart(data(rows)).encode(x=x, y=y, color=colour("name", names))
    at_8 = shared.transform_filter("datum.rank == 8").mark_text(dy=-12, dx=-6, align="right", fontSize=14)
    return finished(shared.mark_line(strokeWidth=2.5), at_8.encode(text=alt.Text("trained:Q", format=",")))


def memory_by_method() -> str:
    """Planned peak memory of a training step of GPT-2."""
    labels = {"full": "full fine-tuning", "lora": "LoRA r=8", "qlora": "LoRA r=8, base in 4 bits"}
    order = {use: place for place, use in enumerate(USES)}
    rows = [
        {**row, "arm": labels[row["arm"]], "mib": row["bytes"] / MIB, "order": order[row["use"]]}
        for row in recorded("memory")
    ]
    bars = alt.Chart(data(rows)).encode(
        y=alt.Y("arm:N", sort=list(labels.values()), title=None, axis=alt.Axis(labelLimit=240)),
        x=alt.X("sum(mib):Q", title="MiB at the peak of a training step", axis=alt.Axis(tickCount=6)),
    )
    totals = bars.mark_text(align="left", dx=6, fontSize=14, color=INK).encode(
        text=alt.Text("sum(mib):Q", format=",.0f")
    )
    parts = bars.mark_bar(size=34).encode(color=colour("use", {use: COLOURS[use] for use in USES}), order="order:O")
    return finished(parts, totals, height=260)


def learning_rates() -> str:
    """Validation loss by learning rate, of full fine-tuning and of LoRA."""
    rows = [row for row in recorded("rates") if row["valid_nll"] is not None]
    names = {"full": BLUE, "lora-r8": ORANGE, "lora-r16-all": GREEN}
    x = alt.X(
        "learning_rate:Q",
        title="learning rate (logarithmic)",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(values=[0.001, 0.003, 0.01, 0.03], format="~e", grid=False),
    )
    y = decades("valid_nll", "validation loss (nats per token, logarithmic)", range(-4, 2))
    shared = alt.Chart(data(rows)).encode(x=x, y=y, color=colour("arm", names))
    dots = shared.mark_point(size=80, strokeWidth=2)
    chosen = shared.transform_filter("datum.selected").mark_point(size=130, filled=True, opacity=1)
    return finished(shared.mark_line(strokeWidth=2, opacity=0.6), dots, chosen)


def loss_by_rank() -> str:
    """Training loss by step at several ranks."""
    labels = {"r1": "LoRA r=1", "r4": "LoRA r=4", "r16": "LoRA r=16", "r64": "LoRA r=64", "full": "full fine-tuning"}
    rows = [{**row, "name": labels[row["name"]]} for row in recorded("losses")]
    colours = dict(zip(labels.values(), (PALETTE[4], ORANGE, GREEN, PURPLE, BLUE), strict=True))
    x = alt.X("step:Q", title="optimizer step", axis=alt.Axis(tickCount=6, grid=False))
    y = decades("loss", "training loss (nats per token, logarithmic)", range(-4, 2))
    shared = alt.Chart(data(rows)).encode(x=x, y=y, color=colour("name", colours))
    return finished(shared.mark_line(strokeWidth=2), shared.mark_circle(size=20, opacity=1))


def spectrum() -> str:
    """Singular values of a full update, with a cut at rank 16."""
    modules = {"h.0.attn.c_attn": BLUE, "h.0.attn.c_proj": GREEN, "h.0.mlp.c_fc": ORANGE, "h.0.mlp.c_proj": PURPLE}
    rows = [row for row in recorded("spectrum") if row["module"] in modules]
    x = alt.X(
        "index:Q", title="singular value number", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8, grid=False)
    )
    shared = alt.Chart(data(rows)).encode(
        x=x,
        y=alt.Y("value:Q", title="singular value of the update", axis=alt.Axis(tickCount=6)),
        color=colour("module", modules),
    )
    cut = alt.Chart(data([{"index": 16, "words": "rank 16 keeps these"}])).encode(x="index:Q")
    rule = cut.mark_rule(strokeDash=[4, 3], color=MUTED, strokeWidth=1.5)
    words = cut.mark_text(align="left", dx=8, y=14, color=INK, fontSize=14).encode(text="words:N")
    return finished(
        shared.mark_line(strokeWidth=2),
        shared.transform_filter("datum.index % 16 == 1").mark_circle(size=20, opacity=1),
        rule,
        words,
    )


def what_is_forgotten() -> str:
    """Loss on general text against validation loss during training."""
    names = {"full": BLUE, "lora-r8": ORANGE, "lora-r16-all": GREEN}
    x = alt.X(
        "valid_nll:Q",
        title="validation loss (nats per token, logarithmic), better to the right",
        scale=alt.Scale(type="log", nice=False, padding=14, reverse=True),
        axis=alt.Axis(values=[1, 0.1, 0.01, 0.001], grid=False, format="~g"),
    )
    shared = alt.Chart(data(recorded("forgetting"))).encode(
        x=x,
        y=alt.Y("change:Q", title="rise of the loss on general text (nats per token)", axis=alt.Axis(tickCount=6)),
        color=colour("arm", names),
        order="step:Q",
    )
    return finished(shared.mark_line(strokeWidth=2, opacity=0.7), shared.mark_circle(size=45, opacity=1))


def margin() -> str:
    """Four made-up intervals and the verdict that each gives with a margin of 0.02."""
    cases = {
        "better": (-0.035, -0.008),
        "as good": (-0.006, 0.013),
        "inconclusive": (0.004, 0.036),
        "worse": (0.027, 0.052),
    }
    colours = {"better": GREEN, "as good": BLUE, "inconclusive": THEME["muted"][0], "worse": PALETTE[4]}
    rows = [{"name": name, "low": low, "high": high, "mean": (low + high) / 2} for name, (low, high) in cases.items()]
    y = alt.Y("name:N", sort=list(cases), title=None)
    title = "NLL of LoRA minus NLL of full fine-tuning (nats per token)"
    x = alt.X("low:Q", title=title, scale=alt.Scale(domain=[-0.045, 0.06], nice=False), axis=alt.Axis(tickCount=6))
    bars = alt.Chart(data(rows)).encode(y=y, color=colour("name", colours, has_legend=False))
    lines = alt.Chart(data([{"at": 0, "words": "equal"}, {"at": 0.02, "words": "margin"}])).encode(x="at:Q")
    return finished(
        lines.mark_rule(strokeDash=[4, 3], color=MUTED, strokeWidth=1.5),
        lines.mark_text(align="left", dx=5, y=8, color=MUTED, fontSize=13).encode(text="words:N"),
        bars.mark_rule(strokeWidth=8, strokeCap="round", opacity=0.45).encode(x=x, x2="high:Q"),
        bars.mark_circle(size=130, opacity=1).encode(x="mean:Q"),
        height=290,
    )


DRAWN: Sequence[Callable[[], str]] = (
    low_rank_update,
    parameters_by_rank,
    memory_by_method,
    learning_rates,
    loss_by_rank,
    spectrum,
    what_is_forgotten,
    margin,
)


def draw(folder: Path) -> list[Path]:
    """Write every figure into `folder`; returns their paths."""
    paths = []
    for figure in DRAWN:
        paths.append(folder / f"{figure.__name__.replace('_', '-')}.svg")
        svg = figure()
        paths[-1].write_text(svg if svg.endswith("\n") else svg + "\n", encoding="utf-8")
    return paths


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1]) if sys.argv[1:] else FIGURES), sep="\n")

"""The size of an adapter's update by layer and kind of module, as an SVG."""

import altair as alt

from tunewise.desk.adapter.view import AdapterView
from tunewise.desk.report.charts.canvas import FULL_WIDTH, MUTED, data, standalone, styled, to_svg
from tunewise.errors import ModelError
from tunewise.text.safe import printable

CELL_HEIGHT = 26
MAX_KINDS, MAX_LAYERS = 300, 1_000
MARGIN = 150  # axes and legend


def heat_map(view: AdapterView) -> str:
    """A heat map: layers to the right, kinds of module downward, the norm of the update as color."""
    rows = [
        {
            "layer": "–" if module.layer is None else str(module.layer),
            "kind": printable(module.kind),
            "norm": module.norm,
        }
        for module in view.modules
    ]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    kinds = list(dict.fromkeys(str(row["kind"]) for row in rows))
    if len(kinds) > MAX_KINDS or len(layers) > MAX_LAYERS:
        raise ModelError(
            f"{view.path} has {len(kinds):,} kinds of module in {len(layers):,} layers, but a chart has room for only "
            f"{MAX_KINDS} and {MAX_LAYERS}. Use --json instead of --svg."
        )
    chart = (
        alt.Chart(data(rows))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", sort=layers, title="layer", axis=alt.Axis(labelAngle=0, grid=False)),
            y=alt.Y("kind:N", sort=kinds, title=None, axis=alt.Axis(labelColor=MUTED, grid=False)),
            color=alt.Color("norm:Q", title="norm of the update", scale=alt.Scale(scheme="viridis", domainMin=0)),
        )
    )
    return standalone(to_svg(styled(chart, FULL_WIDTH, MARGIN + CELL_HEIGHT * len(kinds))))

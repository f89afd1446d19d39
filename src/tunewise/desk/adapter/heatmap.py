"""The size of an adapter's update by layer and kind of module, as an SVG."""

import altair as alt

from tunewise.desk.adapter.view import AdapterView
from tunewise.desk.report.canvas import FULL_WIDTH, MUTED, data, standalone, styled, to_svg

CELL_HEIGHT = 26
MARGIN = 150  # axes and legend


def heat_map(view: AdapterView) -> str:
    """A cell for every module: layers to the right, kinds of module downwards, the norm of the update as its colour."""
    rows = [
        {
            "layer": "–" if module.layer is None else str(module.layer),
            "kind": module.kind,
            "norm": module.norm,
        }
        for module in view.modules
    ]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
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

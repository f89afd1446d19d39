"""Adapter commands that need the base: merge, and verify that all forms agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewise.adapter.records import Certificate, Merging, Rounding, Stored
from tunewise.errors import SpecError
from tunewise.spec import DataSpec
from tunewise.spec.reading import parse_study
from tunewise.storage.disk import require_new
from tunewise.storage.scratch import require_scratch


def merge(  # noqa: PLR0913 - what to merge, onto what, how to store it, what to score it on
    adapter: Path,
    out: Path,
    base: str | None = None,
    trained_on: Rounding = "whole",
    onto: Rounding | None = None,
    stored: Stored | None = None,
    data: DataSpec | None = None,
) -> Merging:
    """Merge the adapter in fp32, cast once, write it to `out`; score every form on the rows of `data.train`.

    `base` None: the one that the adapter names. `onto`: 'whole', or None for the same as `trained_on`. `stored` None:
    the dtype of the base. Raises SpecError for `onto`, ModelError for adapters that cannot be merged, DataError for
    unsuitable rows.
    """
    if onto not in (None, "whole", trained_on):
        raise SpecError(f"--onto must be whole or the same as --trained-on, which is {trained_on}, but got {onto}.")
    require_new(out)
    require_scratch()
    from tunewise.lab.adapters.load import AdapterFolder
    from tunewise.lab.adapters.merge import MergePlan
    from tunewise.lab.adapters.merge import merge as merge_into
    from tunewise.lab.adapters.rows import rows_of

    opened = AdapterFolder.open(adapter, base)
    plan = MergePlan(opened, trained_on, onto or trained_on, stored or opened.stored, out)
    return merge_into(plan, rows_of(opened, data))


def verify(
    adapter: Path, base: str | None = None, data: DataSpec | None = None, logits: float = 1e-3, metric: float = 0.01
) -> Certificate:
    """Certificate that the adapter works the same after reloading and merging.

    Merged in fp32, logits agree within `logits`; in bf16, NLL and accuracy within `metric`. Texts are also read and
    stopped as in training. Raises ModelError and DataError as `merge` does.
    """
    require_scratch()
    from tunewise.lab.adapters.load import AdapterFolder
    from tunewise.lab.adapters.rows import rows_of
    from tunewise.lab.adapters.verify import Tolerances
    from tunewise.lab.adapters.verify import verify as certify

    opened = AdapterFolder.open(adapter, base)
    return certify(opened, rows_of(opened, data), Tolerances(logits, metric))


def data_spec(source: Path | None, settings: Mapping[str, Any]) -> DataSpec | None:
    """Rows that `--data` and `--set data.x=y` mean; None if no data is given. Raises SpecError."""
    if source is None:
        return None
    content: dict[str, Any] = {"name": "adapter", "data": {"train": str(source)}, "arms": {"full": {"method": "full"}}}
    for key, value in settings.items():
        content["data"][key.removeprefix("data.")] = value
    return parse_study(content, "--set").data

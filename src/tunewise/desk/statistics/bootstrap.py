"""The pigeonhole bootstrap: a cross-check of an interval over seeds and units, not used for the verdict.

Seeds and units are resampled independently, each with replacement, and the mean of the crossed table is recomputed.
Source: Owen 2007 (Annals of Applied Statistics 1). Three or four seeds are too few to resample, so it is computed from
5 seeds on.

Shapes: S seeds, N columns (units and pseudo-units), B draws of one product, R rows of all tables.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.paired import Contrast

FEWEST_SEEDS = 5
NUM_DRAWS = 10_000
CHUNK_CELLS = 250_000  # draws x columns at a time: 2 MB of counts stay in the cache
DRAWS_OF_PRODUCT = 8  # at least: a product with one draw reads the whole table for it


def pigeonhole_interval(contrast: Contrast, confidence: float = 0.95, num_draws: int = NUM_DRAWS) -> Estimate | None:
    """Quantiles of the mean over draws of seeds and units, around the metric's own estimate; the same on every call.

    None with fewer than 5 seeds.
    """
    return pigeonhole_intervals([(contrast, confidence)], num_draws)[0]


def pigeonhole_intervals(
    asked: Sequence[tuple[Contrast, float]], num_draws: int = NUM_DRAWS
) -> tuple[Estimate | None, ...]:
    """The interval of each contrast at its confidence; contrasts of the same shape share their draws, and their time.

    Each is the one that it would have alone.
    """
    tables = [contrast.values_SN for contrast, _ in asked]
    means: dict[int, Floats] = {}
    for shape in {table.shape for table in tables if len(table) >= FEWEST_SEEDS}:
        alike = [place for place, table in enumerate(tables) if table.shape == shape]
        drawn = _means_of([tables[place] for place in alike], num_draws, np.random.default_rng(0))
        means |= dict(zip(alike, drawn, strict=True))
    return tuple(
        _estimate(contrast, means[place], confidence) if place in means else None
        for place, (contrast, confidence) in enumerate(asked)
    )


def _estimate(contrast: Contrast, means: Floats, confidence: float) -> Estimate:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(estimate=contrast.estimate, low=float(low), high=float(high))


def pigeonhole_means(values_SN: Floats, num_draws: int, rng: np.random.Generator) -> Floats:
    """The mean of the table in every draw, `num_draws` long: seed counts x table x unit counts, chunk by chunk."""
    return _means_of([values_SN], num_draws, rng)[0]


def _means_of(tables: Sequence[Floats], num_draws: int, rng: np.random.Generator) -> list[Floats]:
    """The means of several tables (S, N) of the same shape in the same draws."""
    num_seeds, num_columns = tables[0].shape
    chunk = max(CHUNK_CELLS // num_columns, 1)
    at_once = chunk * max(DRAWS_OF_PRODUCT // chunk, 1)
    rows_NR = np.concatenate(tables).T  # of all tables: one wide product takes little longer than a narrow one
    found: list[Floats] = [np.empty(num_draws) for _ in tables]
    for begin in range(0, num_draws, at_once):
        end = min(begin + at_once, num_draws)
        sizes = [min(chunk, end - start) for start in range(begin, end, chunk)]
        drawn = [(_counts(size, num_seeds, rng), _counts(size, num_columns, rng)) for size in sizes]
        seeds_BS, units_BN = (np.concatenate(counts) for counts in zip(*drawn, strict=True))
        for means, sums_BS in zip(found, np.split(units_BN @ rows_NR, len(tables), axis=1), strict=True):
            means[begin:end] = np.einsum("bs,bs->b", seeds_BS, sums_BS)
    return [means / (num_seeds * num_columns) for means in found]


def _counts(num_draws: int, size: int, rng: np.random.Generator) -> Floats:
    """How often each of `size` things was drawn in `size` draws with replacement, (num_draws, size)."""
    drawn = rng.integers(0, size, (num_draws, size), dtype=np.int32)
    drawn += (size * np.arange(num_draws, dtype=np.int32))[:, None]
    counts: Floats = np.bincount(drawn.ravel(), minlength=num_draws * size).reshape(num_draws, size).astype(np.float64)
    return counts

"""The pigeonhole bootstrap: a second opinion on an interval over seeds and units, printed and never decisive.

Seeds and units are drawn again, each with replacement and independently of each other, and the mean of the crossed
table is taken anew. Source: Owen 2007 (Annals of Applied Statistics 1). Three or four seeds hold too little to draw
from, so it is given from 5 on.

Shapes: S seeds, N columns (units and pseudo-units), B draws of one chunk.
"""

import numpy as np

from tunewise.desk.intervals import Estimate
from tunewise.desk.metrics import Floats
from tunewise.desk.paired import Contrast

FEWEST_SEEDS = 5
NUM_DRAWS = 10_000
CHUNK_CELLS = 250_000  # draws x columns at a time: 2 MB of counts stay in the cache


def pigeonhole_interval(contrast: Contrast, confidence: float = 0.95, num_draws: int = NUM_DRAWS) -> Estimate | None:
    """Quantiles of the mean over draws of seeds and units, around the metric's own estimate; the same on every call.

    None with fewer than 5 seeds.
    """
    values_SN = contrast.values_SN
    if len(values_SN) < FEWEST_SEEDS:
        return None
    means = pigeonhole_means(values_SN, num_draws, np.random.default_rng(0))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(estimate=contrast.estimate, low=float(low), high=float(high))


def pigeonhole_means(values_SN: Floats, num_draws: int, rng: np.random.Generator) -> Floats:
    """The mean of the table in every draw, `num_draws` long: seed counts x table x unit counts, chunk by chunk."""
    num_seeds, num_columns = values_SN.shape
    chunk = max(CHUNK_CELLS // num_columns, 1)
    means = []
    for begin in range(0, num_draws, chunk):
        size = min(chunk, num_draws - begin)
        seeds_BS, units_BN = _counts(size, num_seeds, rng), _counts(size, num_columns, rng)
        means.append(np.einsum("bs,bs->b", seeds_BS, units_BN @ values_SN.T))
    found: Floats = np.concatenate(means) / (num_seeds * num_columns)
    return found


def _counts(num_draws: int, size: int, rng: np.random.Generator) -> Floats:
    """How often each of `size` things was drawn in `size` draws with replacement, (num_draws, size)."""
    drawn = rng.integers(0, size, (num_draws, size), dtype=np.int32)
    drawn += (size * np.arange(num_draws, dtype=np.int32))[:, None]
    counts: Floats = np.bincount(drawn.ravel(), minlength=num_draws * size).reshape(num_draws, size).astype(np.float64)
    return counts

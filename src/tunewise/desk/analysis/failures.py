"""Failing runs of an arm: which ones ended far from the others, and how large their share may be.

Quality and reliability are two claims. An interval of a mean over seeds does not see a failure that these seeds happen
not to contain: of 5 seeds, 59% hold none if 1 run in 10 fails.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

# A run is far from the others if its distance from the median exceeds both limits. In median absolute deviations, by
# number of runs: the 99% quantile of the largest such distance of normal runs, so that at most 1 arm in 100 has a far
# run by chance (tests/desk/test_failures.py simulates it). In margins: what a user calls a small loss is not a failure.
FAR_DEVIATIONS = {3: 170.0, 4: 29.0, 5: 29.0, 6: 16.5, 7: 16.5, 8: 12.5, 9: 12.5}
FAR_DEVIATIONS_OF_MANY = 10.5  # 10 runs or more
FAR_MARGINS = 2.0


def far_runs(values: Sequence[float], margin: float) -> tuple[int, ...]:
    """Positions of the runs whose metric ended far from that of the arm's other runs; none with fewer than 3 runs."""
    if len(values) < min(FAR_DEVIATIONS):
        return ()
    distances = np.abs(np.array(values) - np.median(values))
    deviations = FAR_DEVIATIONS.get(len(values), FAR_DEVIATIONS_OF_MANY)
    limit = max(FAR_MARGINS * margin, deviations * float(np.median(distances)))
    return tuple(int(place) for place in np.flatnonzero(distances > limit))


def failing_share_bound(num_failed: int, num_runs: int, confidence: float = 0.95) -> float:
    """Upper bound on the share of runs that fail: 1 - 0.05^(1/S) if none of S did.

    Clopper & Pearson 1934 (Biometrika 26), one-sided.
    """
    if num_failed == num_runs:
        return 1.0
    return float(special.betaincinv(num_failed + 1, num_runs - num_failed, confidence))

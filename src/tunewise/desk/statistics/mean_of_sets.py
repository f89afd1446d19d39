"""The mean of a contrast over several datasets, for new datasets of the same kind or for these alone.

Every arm is trained on every set, so sets are crossed with arms. Seeds and units are nested in sets: no two sets share
any. With d the mean of set l, tau its deviation from the mean of all sets and e its own error, d = mean + tau + e.

Shapes: L sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.paired import Contrast

MIN_NEW_SETS = 5  # with fewer, nothing is said about other sets


@dataclass(frozen=True)
class MeanOfSets:
    """A mean over sets and its uncertainty."""

    estimate: float  # of the metric itself
    means_L: Floats
    variances_L: Floats  # of each mean, for new seeds and units
    freedoms_L: Floats

    @classmethod
    def of(cls, contrasts: Sequence[Contrast]) -> "MeanOfSets":
        """The mean of one contrast per set. Each must have an interval."""
        found = [contrast.interval() for contrast in contrasts]
        errors = [interval.standard_error for interval in found]
        freedoms = [interval.degrees_of_freedom for interval in found]
        return cls(
            estimate=float(np.mean([contrast.estimate for contrast in contrasts])),
            means_L=np.array([contrast.values_SN.mean() for contrast in contrasts]),
            variances_L=np.array(errors, dtype=np.float64) ** 2,
            freedoms_L=np.array(freedoms, dtype=np.float64),
        )

    @property
    def is_of_new_sets(self) -> bool:
        """Whether the interval is for new sets of the same kind; otherwise it is for these sets."""
        return len(self.means_L) >= MIN_NEW_SETS

    def interval(self, confidence: float) -> tuple[float, float]:
        """Ends of the two-sided interval of the mean."""
        level = (1 - confidence) / 2
        reach = max(-float(special.stdtrit(freedom, level)) * error for error, freedom in self._errors())
        mean = float(self.means_L.mean())
        return mean - reach, mean + reach

    def probability_of_negative(self) -> float:
        """The one-sided p-value of "the mean is below 0": the smallest level at which the upper end is below 0."""
        mean = float(self.means_L.mean())
        return max(float(special.stdtr(freedom, mean / error)) for error, freedom in self._errors())

    def probability_of_positive(self) -> float:
        """The one-sided p-value of "the mean is above 0"."""
        mean = float(self.means_L.mean())
        return max(float(special.stdtr(freedom, -mean / error)) for error, freedom in self._errors())

    def _errors(self) -> list[tuple[float, float]]:
        """Standard errors with their degrees of freedom, of which the one that reaches further counts.

        Of these sets: the sum of the sets' variances, with Satterthwaite's degrees of freedom. Of new sets: the spread
        of the sets' means, which contains the variance of tau and of e, with L - 1; sets that agree by accident do not
        count as equal, so the interval is never shorter than that of these sets.
        """
        number, variance = len(self.means_L), float(self.variances_L.sum())
        freedom = variance**2 / float((self.variances_L**2 / self.freedoms_L).sum())
        errors = [(math.sqrt(variance) / number, freedom)]
        if self.is_of_new_sets:
            errors.append((float(self.means_L.std(ddof=1)) / math.sqrt(number), number - 1))
        return [(max(error, np.finfo(np.float64).tiny), freedom) for error, freedom in errors]

"""How sure a mean over examples is, where examples in one cluster depend on each other.

The mean is that of all examples alike; its standard error counts clusters. Where every example is a
cluster of its own, this is the t test of a textbook.

Source: Cameron & Miller (2015), "A Practitioner's Guide to Cluster-Robust Inference", Journal of
Human Resources 50:317-372, section II, with t critical values of G - 1 degrees of freedom (VI.D).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gates.evaluation.statistics import Interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ENOUGH = 2  # fewer units have no spread


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over examples.

    Args:
        value: the mean.
        standard_error: of it; None where fewer than two units say nothing of their spread.
        units: how many examples or, where they are in clusters, clusters it rests on.
    """

    value: float
    standard_error: float | None
    units: int

    def p_value_above(self, bound: float) -> float:
        """Return how likely so large a mean is if the true one is `bound`, or less.

        Where all examples are alike, the mean is taken for the true one.
        """
        return self._p_value(self.value - bound)

    def p_value_below(self, bound: float) -> float:
        """Return how likely so small a mean is if the true one is `bound`, or more."""
        return self._p_value(bound - self.value)

    def _p_value(self, distance: float) -> float:
        if self.standard_error is None:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        from scipy.stats import t  # noqa: PLC0415 - takes half a second to import

        return float(t.sf(distance / self.standard_error, self.units - 1))

    def interval(self, *, confidence: float) -> Interval | None:
        """Return the two-sided t interval of the mean; None where there is none."""
        if self.standard_error is None:
            return None
        from scipy.stats import t  # noqa: PLC0415 - as above

        reach = float(t.ppf((1 + confidence) / 2, self.units - 1)) * self.standard_error
        return Interval(self.value - reach, self.value + reach)

    def units_needed(self, distance: float, *, alpha: float, power: float) -> int | None:
        """Return how many units would show the mean to be away from a bound.

        Args:
            distance: how far it is from the bound now.
            alpha: the largest chance of a wrong conclusion.
            power: the chance of reaching it.

        Returns:
            More than there are now; None where no number would do.

        Source: Chow, Shao, Wang & Lokhnygina (2018), Sample Size Calculations in Clinical
        Research, section 3.2.
        """
        if self.standard_error is None:
            return _ENOUGH
        if not distance > 0:
            return None
        z_alpha, z_power = (NormalDist().inv_cdf(share) for share in (1 - alpha, power))
        spread = self.standard_error * math.sqrt(self.units)
        enough = ((z_alpha + max(z_power, 0.0)) * spread / distance) ** 2
        return max(math.ceil(enough), self.units + 1)


def mean(values: FloatArray, clusters: IntArray | None = None) -> Mean:
    """Return the mean of `values` with its standard error.

    Args:
        values: (n_examples,) at least one.
        clusters: (n_examples,) a number for the cluster of each; None if each is its own.
    """
    value = float(values.mean())
    deviations = values - value
    if clusters is None:
        totals = deviations
    else:
        _, members = np.unique(clusters, return_inverse=True)
        totals = np.bincount(members, weights=deviations)
    units = len(totals)
    if units < _ENOUGH:
        return Mean(value=value, standard_error=None, units=units)
    variance = units / (units - 1) * float(totals @ totals) / len(values) ** 2
    # What is left where all values are one is the rounding of their mean.
    if math.sqrt(variance) <= 1e-14 * max(1.0, abs(value)):
        variance = 0.0
    return Mean(value=value, standard_error=math.sqrt(variance), units=units)

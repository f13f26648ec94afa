"""Means over examples, with standard errors that allow for dependence within clusters.

All examples have the same weight in the mean; its standard error counts clusters. If every example
is its own cluster, this is the textbook t test.

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

_MINIMUM_UNITS = 2  # a single unit has no spread


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over examples.

    Args:
        value: the mean.
        standard_error: of the mean; None if there are fewer than two units.
        units: the number of clusters, or of examples if there are no clusters.
    """

    value: float
    standard_error: float | None
    units: int

    def p_value_above(self, bound: float) -> float:
        """Return how likely a mean this large is if the true mean is `bound` or less.

        If all examples have the same value, that value counts as the true mean.
        """
        return self._p_value(self.value - bound)

    def p_value_below(self, bound: float) -> float:
        """Return how likely a mean this small is if the true mean is `bound` or more."""
        return self._p_value(bound - self.value)

    def _p_value(self, distance: float) -> float:
        if self.standard_error is None:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        from scipy.stats import t  # noqa: PLC0415 - takes half a second to import

        return float(t.sf(distance / self.standard_error, self.units - 1))

    def interval(self, *, confidence: float) -> Interval | None:
        """Return the two-sided t interval of the mean; None without a standard error."""
        if self.standard_error is None:
            return None
        from scipy.stats import t  # noqa: PLC0415 - as above

        reach = float(t.ppf((1 + confidence) / 2, self.units - 1)) * self.standard_error
        return Interval(self.value - reach, self.value + reach)

    def units_needed(self, distance: float, *, alpha: float, power: float) -> int | None:
        """Return how many units would show on which side of a bound the mean lies.

        Args:
            distance: how far the mean is from the bound, negative on the wrong side.
            alpha: the largest probability of a wrong conclusion.
            power: the probability of reaching the right one.

        Returns:
            A number above the current one; None if no number would be enough.
        """
        if self.standard_error is None:
            return _MINIMUM_UNITS
        if not distance > 0:
            return None
        spread = self.standard_error * math.sqrt(self.units)
        return max(sample_size(spread, distance, alpha=alpha, power=power), self.units + 1)


def mean(values: FloatArray, clusters: IntArray | None = None) -> Mean:
    """Return the mean of `values` with its standard error.

    Args:
        values: (n_examples,) at least one.
        clusters: (n_examples,) the cluster number of each; None if they are independent.
    """
    value = float(values.mean())
    deviations = values - value
    if clusters is None:
        totals = deviations
    else:
        _, members = np.unique(clusters, return_inverse=True)
        totals = np.bincount(members, weights=deviations)
    units = len(totals)
    if units < _MINIMUM_UNITS:
        return Mean(value=value, standard_error=None, units=units)
    variance = units / (units - 1) * float(totals @ totals) / len(values) ** 2
    # If all values are equal, any variance left is the rounding of their mean.
    if math.sqrt(variance) <= 1e-14 * max(1.0, abs(value)):
        variance = 0.0
    return Mean(value=value, standard_error=math.sqrt(variance), units=units)


def sample_size(spread: float, distance: float, *, alpha: float, power: float) -> int:
    """Return how many units show that a mean is clear of a bar at this distance.

    This is the normal approximation, which is slightly optimistic below about 30 units.

    Args:
        spread: the standard deviation of a unit's value.
        distance: from the bar to the true mean, above 0.
        alpha: the level of the test, in (0, 1).
        power: the probability that it is shown, in (0, 1).

    Source: Chow, Shao, Wang & Lokhnygina (2018), Sample Size Calculations in Clinical Research,
    section 3.2.
    """
    z_alpha, z_power = (NormalDist().inv_cdf(share) for share in (1 - alpha, power))
    return math.ceil(((z_alpha + max(z_power, 0.0)) * spread / distance) ** 2)

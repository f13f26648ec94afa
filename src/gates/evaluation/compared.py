"""One metric of two models on the same examples, and how sure what it says is.

A difference is what the candidate does better: negative where it is worse, whichever way the metric
counts.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gates.evaluation import statistics
from gates.evaluation.means import Mean, mean
from gates.evaluation.policy import EvaluationPolicy
from gates.evaluation.statistics import Interval, PairedCounts

FloatArray = npt.NDArray[np.float64]


class Compared(ABC):
    """A metric of both models in one group of examples.

    Args:
        n: how many units the tests count.
        unit: what they are, in the plural: examples, or clusters of examples.
        candidate: the candidate's value.
        baseline: the baseline's.
        difference: what the candidate does better.
        sign: 1 where more is better, -1 where less is.
    """

    n: int
    unit: str
    sign: float
    candidate: float
    baseline: float
    difference: float

    @abstractmethod
    def p_value(self, margin: float) -> float:
        """Return how likely such a result is if the candidate is worse by `margin`."""

    @abstractmethod
    def harm_p_value(self, margin: float) -> float:
        """Return how likely such a result is if the candidate is worse by no more than that."""

    @abstractmethod
    def interval(self, confidence: float) -> Interval | None:
        """Return the interval of the difference; None where too few examples give one."""

    @abstractmethod
    def n_needed(self, margin: float, rules: EvaluationPolicy) -> int | None:
        """Return how many units would show it to be no worse by `margin`; None if no number."""

    @abstractmethod
    def is_below(self, floor: float) -> bool:
        """Whether the candidate's value is worse than `floor`."""

    @abstractmethod
    def below_p_value(self, floor: float) -> float:
        """Return how likely so bad a value is if the candidate's true one is `floor`."""

    @abstractmethod
    def candidate_interval(self, confidence: float) -> Interval | None:
        """Return the interval of the candidate's value; None where too few examples give one."""

    @abstractmethod
    def n_to_show_below(self, floor: float, rules: EvaluationPolicy, *, tests: int) -> int:
        """Return how many units would show a value that is below `floor` to be so.

        Args:
            floor: the bar.
            rules: says how sure one must be.
            tests: how many groups are tested at once, by Bonferroni's correction.
        """


@dataclass(frozen=True)
class ComparedShares(Compared):
    """How often both models are right, of independent examples.

    Args:
        counts: the paired outcomes; at least one.
    """

    counts: PairedCounts
    unit = "examples"
    sign = 1.0

    @property
    def n(self) -> int:  # type: ignore[override] # computed
        """How many examples there are."""
        return self.counts.n

    @property
    def candidate(self) -> float:  # type: ignore[override] # computed
        """The candidate's accuracy."""
        return self.counts.candidate_right / self.counts.n

    @property
    def baseline(self) -> float:  # type: ignore[override] # computed
        """The baseline's accuracy."""
        return self.counts.baseline_right / self.counts.n

    @property
    def difference(self) -> float:  # type: ignore[override] # computed
        """The candidate's accuracy minus the baseline's."""
        return self.counts.difference

    def p_value(self, margin: float) -> float:
        """Return the p-value of Tango's score test of non-inferiority."""
        return statistics.noninferiority_p_value(self.counts, margin=margin)

    def harm_p_value(self, margin: float) -> float:
        """Return the p-value of Tango's score test of harm."""
        return statistics.harm_p_value(self.counts, margin=margin)

    def interval(self, confidence: float) -> Interval:
        """Return Tango's score interval of the difference."""
        return statistics.tango_interval(self.counts, confidence=confidence)

    def n_needed(self, margin: float, rules: EvaluationPolicy) -> int | None:
        """Return how many examples would show it to be no worse by `margin`."""
        if not self.difference > -margin:
            return None
        enough = statistics.sample_size(
            difference=self.difference,
            discordance=self.counts.discordance,
            margin=margin,
            alpha=rules.alpha,
            power=rules.power,
        )
        return max(enough, self.n + 1)

    def is_below(self, floor: float) -> bool:
        """Whether the candidate's accuracy is below `floor`."""
        return not self.candidate >= floor

    def below_p_value(self, floor: float) -> float:
        """Return the p-value of the exact binomial test."""
        return statistics.binomial_p_value(self.counts.candidate_right, self.n, at_least=floor)

    def candidate_interval(self, confidence: float) -> Interval:
        """Return Wilson's interval of the candidate's accuracy."""
        right = self.counts.candidate_right
        return statistics.wilson_interval(right, self.n, confidence=confidence)

    def n_to_show_below(self, floor: float, rules: EvaluationPolicy, *, tests: int) -> int:
        """Return how many examples would show an accuracy that is below `floor` to be so.

        Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, 2.5.
        """
        z_alpha = NormalDist().inv_cdf(1 - rules.alpha / tests)
        z_power = NormalDist().inv_cdf(rules.power)
        observed = self.candidate
        supposed, found = (math.sqrt(share * (1 - share)) for share in (floor, observed))
        spread = max(z_alpha * supposed + z_power * found, 0.0)
        return max(math.ceil((spread / (floor - observed)) ** 2), self.n + 1)


@dataclass(frozen=True, kw_only=True)
class ComparedMeans(Compared):
    """The mean of a quantity of each example, in pairs, by t tests.

    Args:
        ours: the candidate's mean.
        theirs: the baseline's.
        gain: the mean of what the candidate does better on each example.
        sign: 1 where more is better, -1 where less is.
        unit: what the tests count.
    """

    ours: Mean
    theirs: float
    gain: Mean
    sign: float
    unit: str

    @property
    def n(self) -> int:  # type: ignore[override] # computed
        """How many units the tests count."""
        return self.gain.units

    @property
    def candidate(self) -> float:  # type: ignore[override] # computed
        """The candidate's mean."""
        return self.ours.value

    @property
    def baseline(self) -> float:  # type: ignore[override] # computed
        """The baseline's mean."""
        return self.theirs

    @property
    def difference(self) -> float:  # type: ignore[override] # computed
        """What the candidate does better in the mean."""
        return self.gain.value

    def p_value(self, margin: float) -> float:
        """Return the p-value of the t test of non-inferiority."""
        return self.gain.p_value_above(-margin)

    def harm_p_value(self, margin: float) -> float:
        """Return the p-value of the t test of harm."""
        return self.gain.p_value_below(-margin)

    def interval(self, confidence: float) -> Interval | None:
        """Return the t interval of the difference."""
        return self.gain.interval(confidence=confidence)

    def n_needed(self, margin: float, rules: EvaluationPolicy) -> int | None:
        """Return how many units would show it to be no worse by `margin`."""
        distance = self.gain.value + margin
        return self.gain.units_needed(distance, alpha=rules.alpha, power=rules.power)

    def is_below(self, floor: float) -> bool:
        """Whether the candidate's mean is worse than `floor`."""
        return not self.sign * self.ours.value >= self.sign * floor

    def below_p_value(self, floor: float) -> float:
        """Return the p-value of the one-sample t test."""
        if self.sign > 0:
            return self.ours.p_value_below(floor)
        return self.ours.p_value_above(floor)

    def candidate_interval(self, confidence: float) -> Interval | None:
        """Return the t interval of the candidate's mean."""
        return self.ours.interval(confidence=confidence)

    def n_to_show_below(self, floor: float, rules: EvaluationPolicy, *, tests: int) -> int:
        """Return how many units would show a mean that is worse than `floor` to be so."""
        distance = abs(self.ours.value - floor)
        alpha = rules.alpha / tests
        needed = self.ours.units_needed(distance, alpha=alpha, power=rules.power)
        return needed or self.n + 1


def compared_means(
    ours: FloatArray, theirs: FloatArray, clusters: npt.NDArray[np.int64] | None, *, sign: float
) -> ComparedMeans:
    """Compare a quantity of each example.

    Args:
        ours: (n_examples,) the candidate's, at least one.
        theirs: (n_examples,) the baseline's.
        clusters: (n_examples,) a number for the cluster of each; None if each is its own.
        sign: 1 where more is better, -1 where less is.
    """
    return ComparedMeans(
        ours=mean(ours, clusters),
        theirs=float(theirs.mean()),
        gain=mean(sign * (ours - theirs), clusters),
        sign=sign,
        unit="examples" if clusters is None else "clusters",
    )

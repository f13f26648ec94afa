"""One metric of two models on the same examples, with its tests and intervals.

A difference is the candidate's advantage. It is negative if the candidate is worse, whether higher
or lower values of the metric are better.
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
        unit: what the units are, in the plural: examples, or clusters of examples.
        candidate: the candidate's value.
        baseline: the baseline's value.
        difference: the candidate's advantage.
        sign: 1 if higher is better, -1 if lower is.
    """

    n: int
    unit: str
    sign: float
    candidate: float
    baseline: float
    difference: float

    @abstractmethod
    def p_value(self, margin: float) -> float:
        """Return how likely a result this good is if the candidate is worse by `margin`."""

    @abstractmethod
    def harm_p_value(self, margin: float) -> float:
        """Return how likely a result this bad is if it is worse by no more than `margin`."""

    @abstractmethod
    def interval(self, confidence: float) -> Interval | None:
        """Return the interval of the difference; None if there are too few examples."""

    @abstractmethod
    def n_needed(self, margin: float, rules: EvaluationPolicy) -> int | None:
        """Return how many units would show non-inferiority; None if no number would."""

    @abstractmethod
    def is_below(self, floor: float) -> bool:
        """Whether the candidate's value is worse than `floor`."""

    @abstractmethod
    def below_p_value(self, floor: float) -> float:
        """Return how likely a value this bad is if the candidate's true value is `floor`."""

    @abstractmethod
    def candidate_interval(self, confidence: float) -> Interval | None:
        """Return the interval of the candidate's value; None if there are too few examples."""

    @abstractmethod
    def n_to_show_below(self, floor: float, rules: EvaluationPolicy, *, tests: int) -> int:
        """Return how many units would show that a value is below `floor`.

        Args:
            floor: the worst value that is accepted.
            rules: the policy, for its alpha and power.
            tests: how many groups are tested together, for Bonferroni's correction.
        """


@dataclass(frozen=True)
class ComparedShares(Compared):
    """The accuracies of both models on independent examples.

    Args:
        counts: the paired outcomes of at least one example.
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
        """Return how many examples would show non-inferiority; None if no number would."""
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
        """Return how many examples would show that the accuracy is below `floor`.

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
    """The means of a per-example quantity, compared by paired t tests.

    Args:
        ours: the candidate's mean.
        theirs: the baseline's mean.
        gain: the mean of the candidate's advantage on each example.
        sign: 1 if higher is better, -1 if lower is.
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
        """The candidate's mean advantage."""
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
        """Return how many units would show non-inferiority; None if no number would."""
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
        """Return how many units would show that the mean is worse than `floor`."""
        distance = abs(self.ours.value - floor)
        alpha = rules.alpha / tests
        needed = self.ours.units_needed(distance, alpha=alpha, power=rules.power)
        return needed or self.n + 1


def compared_means(
    ours: FloatArray, theirs: FloatArray, clusters: npt.NDArray[np.int64] | None, *, sign: float
) -> ComparedMeans:
    """Compare the means of a per-example quantity.

    Args:
        ours: (n_examples,) the candidate's values, at least one.
        theirs: (n_examples,) the baseline's values.
        clusters: (n_examples,) the cluster number of each; None if they are independent.
        sign: 1 if higher is better, -1 if lower is.
    """
    return ComparedMeans(
        ours=mean(ours, clusters),
        theirs=float(theirs.mean()),
        gain=mean(sign * (ours - theirs), clusters),
        sign=sign,
        unit="examples" if clusters is None else "clusters",
    )

"""How many held-out examples a comparison needs, planned before any data is collected."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gates.errors import GateInputError
from gates.evaluation import means, statistics
from gates.evaluation.policy import EvaluationPolicy, MetricRule


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is assumed about the two models and the data.

    Args:
        difference: the true gain of the candidate; 0 for an equally good one.
        discordance: for a proportion, the share of examples on which exactly one model is right.
        spread: for another mean, the standard deviation of the paired differences, in its unit.
        cluster_size: the mean number of examples in a cluster; 1 for independent examples.
        correlation: the correlation of the differences of two examples in one cluster.
    """

    difference: float = 0.0
    discordance: float | None = None
    spread: float | None = None
    cluster_size: float = 1.0
    correlation: float = 0.0

    @property
    def design_effect(self) -> float:
        """How many times more examples clusters need than independent examples.

        Source: Kish (1965), Survey Sampling, section 5.4.
        """
        return 1 + (self.cluster_size - 1) * self.correlation


def examples_needed(
    name: str, rule: MetricRule, margin: float, assumed: Assumptions, rules: EvaluationPolicy
) -> int:
    """Return how many examples show non-inferiority with the policy's power.

    Args:
        name: the metric's name in the policy.
        rule: its rule.
        margin: how much of the metric may be lost, in its unit.
        assumed: the models and the data.
        rules: the policy's alpha and power.

    Raises:
        GateInputError: an assumption is missing or out of range, or the metric is computed over all
            examples, for which there is no formula.
    """
    if not rule.is_mean:
        msg = f"{name}: {rule.of} is not a mean over examples, so there is no formula; judge a "
        msg += "first set of examples, and the verdict says how many are needed"
        raise GateInputError(msg)
    _check(assumed)
    if rule.of == "correct":
        alone = statistics.sample_size(
            difference=assumed.difference,
            discordance=_given(assumed.discordance, "--discordance", name),
            margin=margin,
            alpha=rules.alpha,
            power=rules.power,
        )
    else:
        spread = _given(assumed.spread, "--spread", name)
        distance = margin + assumed.difference
        alone = mean_sample_size(spread=spread, distance=distance, rules=rules)
    return math.ceil(alone * assumed.design_effect)


def mean_sample_size(*, spread: float, distance: float, rules: EvaluationPolicy) -> int:
    """Return how many examples show that a mean is clear of a bar at this distance.

    Args:
        spread: the standard deviation of the paired differences.
        distance: the margin plus the assumed true gain.
        rules: the policy's alpha and power.

    Raises:
        GateInputError: `spread` is negative, or `distance` is not above 0.
    """
    if not (0 <= spread < math.inf):
        msg = f"--spread: must be a standard deviation from 0, got {spread:g}"
        raise GateInputError(msg)
    if not distance > 0:
        msg = "--difference: no number of examples shows that a candidate that loses the margin or "
        msg += "more does not lose it"
        raise GateInputError(msg)
    return max(2, means.sample_size(spread, distance, alpha=rules.alpha, power=rules.power))


def curve(
    needed: Callable[[float], int], margin: float, *, below: float = math.inf
) -> list[tuple[float, int]]:
    """Return the number of examples for margins from half to twice `margin`, up to a bound."""
    margins = [margin * 2 ** (step / 8) for step in range(-8, 9)]
    return [(each, needed(each)) for each in margins if each < below]


def _given(value: float | None, option: str, name: str) -> float:
    if value is None:
        meaning = {
            "--discordance": "the share of examples on which exactly one model is right",
            "--spread": "the standard deviation of the paired differences",
        }[option]
        msg = f"{option}: missing; for {name}, give {meaning}"
        raise GateInputError(msg)
    return value


def _check(assumed: Assumptions) -> None:
    if not (1 <= assumed.cluster_size < math.inf):
        msg = f"--cluster-size: must be a number from 1, got {assumed.cluster_size:g}"
        raise GateInputError(msg)
    if not 0 <= assumed.correlation <= 1:
        msg = f"--correlation: must be between 0 and 1, got {assumed.correlation:g}"
        raise GateInputError(msg)

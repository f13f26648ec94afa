"""Metrics that are computed over all examples together, compared by a paired bootstrap."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from gates.errors import GateInputError
from gates.evaluation import means, statistics
from gates.evaluation.metrics import expected_calibration_error
from gates.evaluation.pairing import PairedArrays, Tally
from gates.evaluation.policy import EvaluationPolicy, MetricRule
from gates.evaluation.statistics import Interval
from gates.functions import named_function
from gates.verdicts.verdict import NOT_JUDGED, OVERALL, Finding, Outcome, floor_of

Metric = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], float]

# A difference exactly at the margin must not fail because of float rounding.
_ROUNDING = 1e-12


def describe_needed(needed: int | None, n: int, unit: str = "examples") -> str:
    """Return how many examples, or clusters, would settle a question that `n` leave open."""
    if needed is None:
        return f"no number of {unit} would settle it at this difference"
    return f"{needed:,} {unit} would settle it, {needed - n:,} more than now"


def log_loss(name: str, rule: MetricRule, counted: Tally, rules: EvaluationPolicy) -> Finding:
    """Judge the mean log loss from sums taken while the examples were counted."""
    sums, n = counted.losses(), counted.counts({}).n
    if n == 1:
        msg = "one example has no spread, so its log loss cannot be judged; score more examples"
        raise GateInputError(msg)
    interval = statistics.mean_interval(
        sums.gain, sums.gain_squared, n, confidence=rules.confidence
    )
    measured = _Measured(
        name=name,
        candidate=sums.candidate / n,
        baseline=sums.baseline / n,
        gain=sums.gain / n,
        interval=interval,
        n=n,
    )
    return _metric(measured, rule, rules)


def bootstrapped(
    name: str, rule: MetricRule, paired: PairedArrays, rules: EvaluationPolicy
) -> Finding:
    """Judge a metric by the BCa interval of the candidate's gain."""
    metric, sign = _metric_of(name, rule), rule.sign

    def values(rows: npt.NDArray[np.int64] | slice) -> tuple[float, float]:
        labels = paired.labels[rows]
        both = (paired.candidate[rows], paired.baseline[rows])
        ours, theirs = (_call(name, metric, labels, probabilities) for probabilities in both)
        return ours, theirs

    def gain(rows: npt.NDArray[np.int64]) -> float:
        ours, theirs = values(rows)
        return sign * (ours - theirs)

    n = len(paired.labels)
    interval = statistics.bca_interval(
        gain, n, confidence=rules.confidence, resamples=rules.resamples, seed=rules.seed
    )
    ours, theirs = values(slice(None))
    measured = _Measured(
        name=name,
        candidate=ours,
        baseline=theirs,
        gain=sign * (ours - theirs),
        interval=interval,
        n=n,
    )
    return _metric(measured, rule, rules)


def floor_reason(
    name: str, value: float, floor: float, *, sign: float, outcome: Outcome, evidence: str = ""
) -> str:
    """Return why a value passes its floor or not; `evidence` follows a value that does not."""
    if outcome is Outcome.PASS:
        return f"not {'below' if sign > 0 else 'above'} {floor:.4f}"
    significant = "significantly" if outcome is Outcome.FAIL else "but not significantly"
    side = "below the floor" if sign > 0 else "above the limit"
    return f"{name} {value:.4f} is {side} {floor:.4f}, {significant}{evidence}"


def judge_floor(
    name: str, rule: MetricRule, floor: float, found: PairedArrays, rules: EvaluationPolicy
) -> Finding:
    """Judge whether the candidate meets a metric's floor, by the BCa interval of its value."""
    metric, sign = _metric_of(name, rule), rule.sign
    labels, probabilities = found.labels, found.candidate

    def distance(rows: npt.NDArray[np.int64] | slice) -> float:
        return sign * (_call(name, metric, labels[rows], probabilities[rows]) - floor)

    n, observed = len(labels), distance(slice(None))
    interval = statistics.bca_interval(
        distance, n, confidence=rules.confidence, resamples=rules.resamples, seed=rules.seed
    )
    value, outcome, needed = floor + sign * observed, Outcome.PASS, None
    if observed < -_ROUNDING:
        outcome = Outcome.FAIL if interval.high < 0 else Outcome.INCONCLUSIVE
    reason = floor_reason(name, value, floor, sign=sign, outcome=outcome)
    if outcome is Outcome.INCONCLUSIVE:
        needed = _n_to_clear(-observed, interval, n, rules)
        reason += f"; {describe_needed(needed, n)}"
    return Finding(
        check=floor_of(name),
        group=OVERALL,
        outcome=outcome,
        reason=reason,
        n=n,
        value=value,
        reference=floor,
        difference=observed,
        interval=(interval.low, interval.high),
        confidence=rules.confidence,
        limit=0.0,
        n_needed=needed,
    )


def _metric_of(name: str, rule: MetricRule) -> Metric:
    if rule.of == "ece":
        return expected_calibration_error
    metric: Metric = named_function(rule.of, where=f"evaluation.metrics.{name}.of")
    return metric


def _call(
    name: str,
    metric: Metric,
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
) -> float:
    try:
        value = float(metric(labels, probabilities))
    except Exception as error:  # the project's own function may raise anything
        msg = f"metric {name}: raised {type(error).__name__}: {error}"
        raise GateInputError(msg) from error
    if not math.isfinite(value):
        msg = f"metric {name}: is {value} on {len(labels):,} examples; expected a finite number"
        raise GateInputError(msg)
    return value


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A metric of both models, with the interval of the candidate's gain."""

    name: str
    candidate: float
    baseline: float
    gain: float
    interval: Interval
    n: int


def _metric(measured: _Measured, rule: MetricRule, rules: EvaluationPolicy) -> Finding:
    """Judge a metric by the interval of the candidate's gain."""
    needed = None
    outcome: Outcome | Literal["not judged"]
    must_be_better = rule.require == "superiority"
    bar = 0.0 if must_be_better else rule.margin
    if rule.require == "report":
        outcome, reason = NOT_JUDGED, "only reported, as the policy asks"
    elif measured.gain < -rule.margin - _ROUNDING:
        outcome, reason = Outcome.FAIL, f"worse by more than the margin of {rule.margin:.4f}"
    elif measured.interval.low > -bar:
        outcome = Outcome.PASS
        reason = (
            "superiority shown"
            if must_be_better
            else f"non-inferiority shown at margin {rule.margin:.4f}"
        )
    elif must_be_better and measured.interval.high < 0:
        outcome, reason = Outcome.FAIL, "shown to be worse, but superiority is required"
    else:
        outcome = Outcome.INCONCLUSIVE
        needed = _n_to_clear(measured.gain + bar, measured.interval, measured.n, rules)
        reason = (
            f"superiority not shown at alpha {rules.alpha:g}; "
            if must_be_better
            else f"non-inferiority not shown at margin {bar:.4f}, alpha {rules.alpha:g}; "
        )
        reason += describe_needed(needed, measured.n)
    return Finding(
        check=measured.name,
        group=OVERALL,
        outcome=outcome,
        reason=reason,
        n=measured.n,
        value=measured.candidate,
        reference=measured.baseline,
        difference=measured.gain,
        interval=(measured.interval.low, measured.interval.high),
        confidence=rules.confidence,
        limit=0.0 - bar,
        n_needed=needed,
    )


def _n_to_clear(distance: float, interval: Interval, n: int, rules: EvaluationPolicy) -> int | None:
    """Return how many examples would bring the interval clear of a bar at this distance."""
    if not distance > 0:
        return None
    reach = NormalDist().inv_cdf(1 - rules.alpha)
    spread = (interval.high - interval.low) / (2 * reach) * math.sqrt(n)
    enough = means.sample_size(spread, distance, alpha=rules.alpha, power=rules.power)
    return max(enough, n + 1)

"""The evaluation gate: is the candidate no worse than the baseline on the same held-out examples?

Three answers: pass, where it is shown that it is not worse by the margin; fail, where harm is
shown; inconclusive, where the examples settle neither, with the number of examples that would.
What is judged, and by which limits, is the policy's: `gates.evaluation.policy`.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gates.errors import GateInputError
from gates.evaluation import statistics
from gates.evaluation.metrics import expected_calibration_error
from gates.evaluation.pairing import PairedArrays, Tally, arrays, tally
from gates.evaluation.policy import EvaluationPolicy, MetricRule, Policy
from gates.evaluation.predictions import PredictionsFile
from gates.evaluation.statistics import Interval, PairedCounts
from gates.files import sha256
from gates.functions import named_function
from gates.verdicts.verdict import ACCURACY_FLOOR, NOT_JUDGED, OVERALL, Finding, Outcome, Verdict

Metric = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], float]

# At the margin a difference of floats must not fail by a last bit. That of accuracies needs none:
# it is one division of counts, rounded as the margin is.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Group:
    """A part of the examples.

    Args:
        values: the subgroup columns and the values that its examples have; none for all.
    """

    values: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values) or OVERALL


_EVERYTHING = Group(())


def compare(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    policy: Policy,
    *,
    allow_same_model: bool = False,
) -> Verdict:
    """Judge whether `candidate` is no worse than `baseline`, as the policy defines it.

    Args:
        candidate: the predictions of the model that may be promoted.
        baseline: the predictions of the model in production.
        policy: every limit.
        allow_same_model: whether both may come from one checkpoint, as in a test of the gate.

    Raises:
        GateError: they were not scored on the same examples of the same data, come from the same
            checkpoint, or lack what the policy asks for.
    """
    _check_comparable(candidate, baseline, allow_same_model=allow_same_model)
    rules = policy.evaluation
    counted = _tally(candidate, baseline, rules)
    overall, parts = counted.counts({}), _parts(counted, rules)
    findings = [
        _accuracy(overall, rules),
        *_floors(overall, parts, rules),
        *_subgroups(counted, parts, rules),
        *_metrics(candidate, baseline, counted, rules),
    ]
    return Verdict(
        gate="evaluation",
        outcome=_outcome(findings),
        reason=_conclusion(findings),
        findings=tuple(findings),
        metrics={
            **_figures(findings),
            "baseline_accuracy": _baseline_accuracy(overall),
            "difference": overall.difference,
        },
        evidence={
            **_evidence(candidate, policy),
            "baseline": baseline.digests["checkpoint"],
            "baseline_predictions": sha256(baseline.path),
        },
        policy=rules.limits,
        notes=_unproved(candidate, baseline),
    )


def accept_without_baseline(candidate: PredictionsFile, policy: Policy, *, why: str) -> Verdict:
    """Judge a first release, which has nothing to be compared with, by the policy's floors.

    Args:
        candidate: the predictions of the first model.
        policy: every limit; of them the floors apply.
        why: who decided to go without a baseline, and for what reason.

    Raises:
        GateError: no reason is given, or the predictions lack what the policy asks for.
    """
    if not why.strip():
        msg = '--no-baseline: say why there is nothing to compare with, as in "first release"'
        raise GateInputError(msg)
    rules = policy.evaluation
    counted = _tally(candidate, candidate, rules)
    overall, parts = counted.counts({}), _parts(counted, rules)
    findings = [
        *_floors(overall, parts, rules),
        *(
            _too_small(group, counts.n, rules)
            for group, counts in parts.items()
            if not _is_large(counts, rules)
        ),
    ]
    return Verdict(
        gate="evaluation",
        outcome=_outcome(findings),
        reason=f"{_conclusion(findings)}; compared with nothing",
        findings=tuple(findings),
        metrics={"accuracy": _candidate_accuracy(overall)},
        evidence=_evidence(candidate, policy),
        policy=rules.limits,
        notes={"no baseline": why, **_unproved(candidate)},
    )


def _check_comparable(
    candidate: PredictionsFile, baseline: PredictionsFile, *, allow_same_model: bool
) -> None:
    ours, theirs = candidate.digests, baseline.digests
    if ours["data"] != theirs["data"]:
        msg = f"{baseline.name}: scored on other data ({theirs['data'][:12]}) than "
        msg += f"{candidate.name} ({ours['data'][:12]}); score both on the same data"
        raise GateInputError(msg)
    if ours["checkpoint"] == theirs["checkpoint"] and not allow_same_model:
        msg = f"{baseline.name}: comes from the same checkpoint as {candidate.name} "
        msg += f"({ours['checkpoint'][:12]}), and a model is never worse than itself; name the "
        msg += "model in production, or say --allow-same-model"
        raise GateInputError(msg)


def _tally(candidate: PredictionsFile, baseline: PredictionsFile, rules: EvaluationPolicy) -> Tally:
    columns = rules.subgroups.columns
    missing = [name for name in columns if name not in candidate.subgroups]
    if missing:
        msg = f"{candidate.name}: lacks the subgroup column {missing[0]}, which the policy names; "
        msg += f"it has {', '.join(candidate.subgroups) or 'none'}"
        raise GateInputError(msg)
    is_compared = baseline is not candidate
    for file in (candidate, baseline):
        if is_compared and rules.metrics and not file.has_probabilities:
            msg = f"{file.name}: has no probabilities, which the policy's metrics "
            msg += f"({', '.join(rules.metrics)}) need; write them, or take the metrics out"
            raise GateInputError(msg)
    with_losses = is_compared and "nll" in rules.metrics
    counted = tally(candidate, baseline, columns=list(columns), with_losses=with_losses)
    for name, expected in columns.items():
        _check_values(name, expected, counted.values(name), candidate.name)
    return counted


def _check_values(column: str, expected: list[str], found: list[str], where: str) -> None:
    """Refuse a subgroup that went missing, or that the policy does not know."""
    if not expected:
        return
    for value in expected:
        if value not in found:
            msg = f"{where}: the subgroup {column}={value}, which the policy names, has no example"
            raise GateInputError(msg)
    for value in found:
        if value not in expected:
            msg = f"{where}: the subgroup {column}={value} is not one that the policy names; "
            msg += f"add it to evaluation.subgroups.columns.{column}, or correct the data"
            raise GateInputError(msg)


def _accuracy(counts: PairedCounts, rules: EvaluationPolicy) -> Finding:
    """Judge the accuracy on all examples."""
    must_be_better = rules.accuracy.require == "superiority"
    bar = 0.0 if must_be_better else rules.accuracy.margin
    judged = _Judged(counts, margin=bar, rules=rules)
    if counts.difference < -rules.accuracy.margin:
        outcome = Outcome.FAIL
        reason = f"at most {rules.accuracy.margin:.4f} may be lost"
    elif judged.p_value < rules.alpha:
        outcome = Outcome.PASS
        reason = "shown to be better" if must_be_better else "shown to be no worse by the margin"
    elif must_be_better and judged.harm_p_value < rules.alpha:
        outcome = Outcome.FAIL
        reason = "shown to be worse, and better is required"
    else:
        outcome = Outcome.INCONCLUSIVE
        wanted = "better" if must_be_better else f"no worse by {bar:.4f}"
        reason = f"not shown to be {wanted} at alpha {rules.alpha:g} (p {judged.p_value:.2g}); "
        reason += judged.what_would_settle_it()
    return judged.finding(OVERALL, outcome, reason, p_value=judged.p_value)


class _Judged:
    """Paired counts against a margin, with what a finding says of them."""

    def __init__(self, counts: PairedCounts, *, margin: float, rules: EvaluationPolicy) -> None:
        self.counts = counts
        self._margin = margin
        self._rules = rules

    @functools.cached_property
    def p_value(self) -> float:
        return statistics.noninferiority_p_value(self.counts, margin=self._margin)

    @functools.cached_property
    def harm_p_value(self) -> float:
        return statistics.harm_p_value(self.counts, margin=self._margin)

    def n_needed(self) -> int | None:
        """Return how many examples would settle it; None if no number does."""
        if not self.counts.difference > -self._margin:
            return None
        enough = statistics.sample_size(
            difference=self.counts.difference,
            discordance=self.counts.discordance,
            margin=self._margin,
            alpha=self._rules.alpha,
            power=self._rules.power,
        )
        return max(enough, self.counts.n + 1)

    def what_would_settle_it(self) -> str:
        return _more(self.n_needed(), self.counts.n)

    def finding(
        self,
        group: str,
        outcome: Outcome,
        reason: str,
        *,
        p_value: float,
        adjusted_p_value: float | None = None,
    ) -> Finding:
        confidence = self._rules.confidence
        interval = statistics.tango_interval(self.counts, confidence=confidence)
        return Finding(
            check="accuracy",
            group=group,
            outcome=outcome,
            reason=reason,
            n=self.counts.n,
            value=_candidate_accuracy(self.counts),
            reference=_baseline_accuracy(self.counts),
            difference=self.counts.difference,
            interval=(interval.low, interval.high),
            confidence=confidence,
            limit=0.0 - self._margin,
            p_value=p_value,
            adjusted_p_value=adjusted_p_value,
            n_needed=self.n_needed() if outcome == Outcome.INCONCLUSIVE else None,
        )


def groups_of(counted: Tally, rules: EvaluationPolicy) -> list[Group]:
    """Return the subgroups that the policy names: of each column, then of the intersections."""
    values = {
        name: named or counted.values(name) for name, named in rules.subgroups.columns.items()
    }
    single = [Group(((name, value),)) for name, found in values.items() for value in found]
    crossed = [
        Group(((one, first), (other, second)))
        for one, other in rules.subgroups.intersections
        for first in values[one]
        for second in values[other]
    ]
    return single + crossed


def _parts(counted: Tally, rules: EvaluationPolicy) -> dict[Group, PairedCounts]:
    """Return the paired outcomes of each subgroup."""
    return {group: counted.counts(dict(group.values)) for group in groups_of(counted, rules)}


def _is_large(counts: PairedCounts, rules: EvaluationPolicy) -> bool:
    return counts.n >= rules.subgroups.minimum_examples


def _subgroups(
    counted: Tally, parts: Mapping[Group, PairedCounts], rules: EvaluationPolicy
) -> list[Finding]:
    """Judge the accuracy of each subgroup against its margin."""
    judged = {
        group: _Judged(counts, margin=rules.subgroups.margin, rules=rules)
        for group, counts in parts.items()
        if _is_large(counts, rules)
    }
    adjusted = dict(zip(judged, _adjusted_harm(counted, judged, rules), strict=True))
    return [
        _subgroup(group, judged[group], adjusted[group], rules)
        if group in judged
        else _too_small(group, counts.n, rules)
        for group, counts in parts.items()
    ]


def _adjusted_harm(
    counted: Tally, judged: Mapping[Group, _Judged], rules: EvaluationPolicy
) -> list[float]:
    """Return the p-value of harm of each group, corrected for their number."""
    if not judged:
        return []
    if rules.subgroups.correction == "holm":
        raw = np.array([each.harm_p_value for each in judged.values()])
        return [float(p) for p in statistics.holm(raw)]
    margin = rules.subgroups.margin
    z_values = np.array([statistics.tango_z(each.counts, -margin) for each in judged.values()])
    members = np.stack([counted.members(dict(group.values)) for group in judged], axis=1)
    correlation = statistics.cell_correlation(members, counted.outcomes())
    adjusted = statistics.max_t(z_values, correlation, resamples=rules.resamples, seed=rules.seed)
    return [float(p) for p in adjusted]


def _subgroup(
    group: Group, judged: _Judged, adjusted_harm: float, rules: EvaluationPolicy
) -> Finding:
    margin, p_value = rules.subgroups.margin, judged.harm_p_value
    outcome = Outcome.PASS
    reason = f"not shown to be worse by more than {margin:.4f}"
    if adjusted_harm < rules.alpha:
        outcome = Outcome.FAIL
        reason = f"worse by more than {margin:.4f}: p {adjusted_harm:.2g} after correction for "
        reason += "the number of subgroups"
    elif rules.subgroups.require == "noninferiority":
        # Required of every subgroup at once, this needs no correction: a wrong pass of all is
        # no likelier than one of the worst (Berger 1982, Technometrics 24:295-300).
        p_value = judged.p_value
        reason = f"shown to be no worse by {margin:.4f}"
        if not p_value < rules.alpha:
            outcome = Outcome.INCONCLUSIVE
            reason = f"not shown to be no worse by {margin:.4f} (p {p_value:.2g}); "
            reason += judged.what_would_settle_it()
    return judged.finding(
        str(group), outcome, reason, p_value=p_value, adjusted_p_value=adjusted_harm
    )


def _too_small(group: Group, n: int, rules: EvaluationPolicy) -> Finding:
    """Report a subgroup of `n` examples, which say too little, with what the policy makes of it."""
    minimum = rules.subgroups.minimum_examples
    does = rules.subgroups.too_small
    return Finding(
        check="accuracy",
        group=str(group),
        outcome=NOT_JUDGED if does == "report" else Outcome(does),
        reason=f"has {n:,} examples, fewer than {minimum:,}",
        n=n,
        n_needed=minimum,
    )


def _floors(
    overall: PairedCounts, parts: Mapping[Group, PairedCounts], rules: EvaluationPolicy
) -> list[Finding]:
    """Judge the candidate's accuracy against the floors, of all examples and of each subgroup."""
    large = {group: counts for group, counts in parts.items() if _is_large(counts, rules)}
    floor = rules.subgroups.floor
    p_values = [_below(counts, floor) for counts in large.values()]
    adjusted = statistics.holm(np.array(p_values)).tolist() if p_values else []
    subgroups = [
        _floor(group, counts, floor, p_value, rules, tests=len(large))
        for (group, counts), p_value in zip(large.items(), adjusted, strict=True)
    ]
    whole = rules.accuracy.floor
    return [_floor(_EVERYTHING, overall, whole, _below(overall, whole), rules), *subgroups]


def _below(counts: PairedCounts, floor: float) -> float:
    return statistics.binomial_p_value(counts.candidate_right, counts.n, at_least=floor)


def _floor(
    group: Group,
    counts: PairedCounts,
    floor: float,
    p_value: float,
    rules: EvaluationPolicy,
    *,
    tests: int = 1,
) -> Finding:
    """Judge whether the candidate's accuracy is above `floor`; below it, whether that is shown."""
    accuracy = _candidate_accuracy(counts)
    outcome, reason, needed = Outcome.PASS, f"not below {floor:.4f}", None
    if not accuracy >= floor:
        outcome = Outcome.FAIL if p_value < rules.alpha else Outcome.INCONCLUSIVE
        shown = "shown to be" if outcome == Outcome.FAIL else "not shown to be"
        reason = f"accuracy {accuracy:.4f} is below the floor {floor:.4f}; {shown} so on more "
        reason += f"examples (p {p_value:.2g})"
    if outcome == Outcome.INCONCLUSIVE:
        needed = _n_to_show_below(accuracy, counts.n, floor, rules, tests=tests)
        reason += f"; {_more(needed, counts.n)}"
    interval = statistics.wilson_interval(
        counts.candidate_right, counts.n, confidence=rules.confidence
    )
    return Finding(
        check=ACCURACY_FLOOR,
        group=str(group),
        outcome=outcome,
        reason=reason,
        n=counts.n,
        value=accuracy,
        reference=floor,
        difference=accuracy - floor,
        interval=(interval.low - floor, interval.high - floor),
        confidence=rules.confidence,
        limit=0.0,
        adjusted_p_value=p_value,
        n_needed=needed,
    )


def _n_to_show_below(
    accuracy: float, n: int, floor: float, rules: EvaluationPolicy, *, tests: int
) -> int:
    """Return how many examples would show an accuracy to be below `floor`, if it is as observed.

    Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, 2.5; with
    Bonferroni's correction for the number of `tests`.
    """
    z_alpha = NormalDist().inv_cdf(1 - rules.alpha / tests)
    z_power = NormalDist().inv_cdf(rules.power)
    supposed, observed = (math.sqrt(share * (1 - share)) for share in (floor, accuracy))
    spread = max(z_alpha * supposed + z_power * observed, 0.0)
    return max(math.ceil((spread / (floor - accuracy)) ** 2), n + 1)


def _more(needed: int | None, n: int) -> str:
    """Say how many examples would settle what `n` do not."""
    if needed is None:
        return "no number of examples would settle it at this difference"
    return f"{needed:,} examples would settle it, {needed - n:,} more"


def _metrics(
    candidate: PredictionsFile, baseline: PredictionsFile, counted: Tally, rules: EvaluationPolicy
) -> Iterator[Finding]:
    """Judge every other metric of the policy on all examples."""
    in_memory = None
    for name, rule in rules.metrics.items():
        if name == "nll":
            yield _negative_log_likelihood(counted, rule, rules)
            continue
        in_memory = in_memory or arrays(candidate, baseline)
        yield _bootstrapped(name, rule, in_memory, rules)


def _negative_log_likelihood(counted: Tally, rule: MetricRule, rules: EvaluationPolicy) -> Finding:
    sums, n = counted.losses(), counted.counts({}).n
    if n == 1:
        msg = "one example has no spread, so that its log loss cannot be judged; score more"
        raise GateInputError(msg)
    interval = statistics.mean_interval(
        sums.gain, sums.gain_squared, n, confidence=rules.confidence
    )
    measured = _Measured(
        name="nll",
        candidate=sums.candidate / n,
        baseline=sums.baseline / n,
        gain=sums.gain / n,
        interval=interval,
        n=n,
    )
    return _metric(measured, rule, rules)


def _bootstrapped(
    name: str, rule: MetricRule, paired: PairedArrays, rules: EvaluationPolicy
) -> Finding:
    metric, sign = _metric_of(name, rule), 1.0 if rule.higher_is_better else -1.0

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


def _metric_of(name: str, rule: MetricRule) -> Metric:
    if rule.function is None:
        return expected_calibration_error
    where = f"evaluation.metrics.{name}.function"
    metric: Metric = named_function(rule.function, where=where)
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
        msg = f"metric {name}: is {value} on {len(labels):,} examples; expected a number"
        raise GateInputError(msg)
    return value


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A metric of both models, with the interval of what the candidate gains."""

    name: str
    candidate: float
    baseline: float
    gain: float
    interval: Interval
    n: int


def _metric(measured: _Measured, rule: MetricRule, rules: EvaluationPolicy) -> Finding:
    """Judge a metric by the interval of what the candidate gains on it."""
    needed = None
    if measured.gain < -rule.margin - _ROUNDING:
        outcome, reason = Outcome.FAIL, f"at most {rule.margin:.4f} may be lost"
    elif measured.interval.low > -rule.margin:
        outcome, reason = Outcome.PASS, "shown to be no worse by the margin"
    else:
        outcome = Outcome.INCONCLUSIVE
        needed = _n_needed(measured, rule, rules)
        reason = f"not shown to be no worse by {rule.margin:.4f} at alpha {rules.alpha:g}; "
        reason += _more(needed, measured.n)
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
        limit=0.0 - rule.margin,
        n_needed=needed,
    )


def _n_needed(measured: _Measured, rule: MetricRule, rules: EvaluationPolicy) -> int | None:
    """Return how many examples would bring the interval clear of the margin."""
    distance = measured.gain + rule.margin
    if not distance > 0:
        return None
    z_alpha, z_power = (NormalDist().inv_cdf(share) for share in (1 - rules.alpha, rules.power))
    standard_error = (measured.interval.high - measured.interval.low) / (2 * z_alpha)
    enough = measured.n * ((z_alpha + max(z_power, 0.0)) * standard_error / distance) ** 2
    return max(math.ceil(enough), measured.n + 1)


def _outcome(findings: list[Finding]) -> Outcome:
    judged = [Outcome(each.outcome) for each in findings if each.outcome != NOT_JUDGED]
    return Outcome.worst(judged)


def _conclusion(findings: list[Finding]) -> str:
    """Return one sentence: the overall figures, then the findings that decided."""
    first = findings[0]
    before = f"{first.reference:.4f} -> " if first.check == "accuracy" else ""
    change = f" ({first.difference:+.4f})" if first.check == "accuracy" else ""
    examples = "1 held-out example" if first.n == 1 else f"{first.n:,} held-out examples"
    start = f"accuracy {before}{first.value:.4f}{change} on {examples}"
    outcome = _outcome(findings)
    if outcome == Outcome.PASS:
        return f"{start}: {first.reason}"
    decisive = [each for each in findings if each.outcome == outcome]
    told = "; ".join(f"{each.check}, {each.group}: {each.reason}" for each in decisive[:3])
    more = f"; and {len(decisive) - 3} more" if len(decisive) > 3 else ""  # noqa: PLR2004
    return f"{start}: {told}{more}"


def _figures(findings: list[Finding]) -> dict[str, float]:
    return {
        each.check: each.value
        for each in findings
        if each.group == OVERALL and each.value is not None and each.check != ACCURACY_FLOOR
    }


def _evidence(candidate: PredictionsFile, policy: Policy) -> dict[str, str]:
    return {
        **candidate.digests,
        "policy": policy.digest,
        "predictions": sha256(candidate.path),
    }


def _unproved(*files: PredictionsFile) -> dict[str, str]:
    """Return what must be known of predictions whose content no digest vouches for."""
    names = [file.name for file in files if not file.is_sealed]
    told = (
        f"nothing shows that {' and '.join(names)} is as it was written: it has no content_digest"
    )
    return {"unproved": told} if names else {}


def _candidate_accuracy(counts: PairedCounts) -> float:
    return counts.candidate_right / counts.n


def _baseline_accuracy(counts: PairedCounts) -> float:
    return counts.baseline_right / counts.n

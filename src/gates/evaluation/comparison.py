"""The evaluation gate: is the candidate no worse than the baseline on the same held-out examples?

There are three outcomes. Pass: the candidate is shown not to be worse by the margin. Fail: harm is
shown. Inconclusive: the examples show neither, and the verdict says how many would. The policy sets
what is judged and by which limits: `gates.evaluation.policy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from gates.errors import GateInputError
from gates.evaluation import statistics
from gates.evaluation.compared import Compared, ComparedShares, compared_means
from gates.evaluation.over_all import (
    bootstrapped,
    describe_needed,
    floor_reason,
    judge_floor,
    log_loss,
)
from gates.evaluation.pairing import Quantities, Tally, arrays, quantities, tally
from gates.evaluation.policy import SCORE, EvaluationPolicy, MetricRule, Policy
from gates.evaluation.predictions import PredictionsFile
from gates.files import sha256
from gates.verdicts.verdict import (
    NOT_JUDGED,
    OVERALL,
    Finding,
    Outcome,
    Verdict,
    floor_of,
    is_floor,
)


@dataclass(frozen=True)
class Group:
    """A subset of the examples.

    Args:
        values: subgroup columns, each with the value that it has here; empty for all examples.
    """

    values: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values) or OVERALL


_ALL_EXAMPLES = Group(())


class _Groups(Protocol):
    """Both models' answers, from which the primary metric of any group is computed."""

    def values(self, column: str) -> list[str]:
        """Return the values of a subgroup column, sorted."""

    def compared(self, group: Group) -> Compared | None:
        """Return the primary metric in a group; None if the group is empty."""


@dataclass(frozen=True)
class _Counted:
    """The correct answers of both models to independent examples, counted."""

    tally: Tally

    def values(self, column: str) -> list[str]:
        return self.tally.values(column)

    def compared(self, group: Group) -> Compared | None:
        counts = self.tally.counts(dict(group.values))
        return ComparedShares(counts) if counts.n else None


@dataclass(frozen=True)
class _Measured:
    """A per-example quantity whose mean is the primary metric."""

    quantities: Quantities
    rule: MetricRule

    def values(self, column: str) -> list[str]:
        return self.quantities.values(column)

    def compared(self, group: Group) -> Compared | None:
        return _compared(self.quantities, self.rule, group)


def _compared(found: Quantities, rule: MetricRule, group: Group) -> Compared | None:
    chosen = found.members(dict(group.values))
    if not chosen.any():
        return None
    ours, theirs = found.of(rule.of)
    clusters = found.clusters
    clusters = None if clusters is None else clusters[chosen]
    return compared_means(ours[chosen], theirs[chosen], clusters, sign=rule.sign)


def compare(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    policy: Policy,
    *,
    allow_same_model: bool = False,
) -> Verdict:
    """Judge whether `candidate` is no worse than `baseline`, by the policy's limits.

    Args:
        candidate: the predictions of the model that may be promoted.
        baseline: the predictions of the model in production.
        policy: all limits.
        allow_same_model: whether both may come from one checkpoint, as in a test of the gate.

    Raises:
        GateError: they were not scored on the same examples of the same data, come from the same
            checkpoint, or lack what the policy needs.
    """
    _check_comparable(candidate, baseline, allow_same_model=allow_same_model)
    rules = policy.evaluation
    groups = _read(candidate, baseline, rules)
    overall, by_subgroup = _overall(groups), _by_subgroup(groups, rules)
    findings = [
        _primary(overall, rules),
        *_floors(overall, by_subgroup, rules),
        *_subgroups(groups, by_subgroup, rules),
        *_others(candidate, baseline, groups, rules),
    ]
    return Verdict(
        gate="evaluation",
        outcome=_outcome(findings),
        reason=_conclusion(findings, overall, rules),
        findings=tuple(findings),
        metrics={
            **_figures(findings),
            f"baseline_{rules.primary_name}": overall.baseline,
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
    """Judge a first release, which has no baseline, by the policy's floors.

    Args:
        candidate: the predictions of the first model.
        policy: all limits; only the floors apply.
        why: who decided to go without a baseline, and for what reason.

    Raises:
        GateError: no reason is given, the primary metric has no floor, or the predictions lack
            what the policy needs.
    """
    if not why.strip():
        msg = '--no-baseline: say why there is no baseline, as in "first release"'
        raise GateInputError(msg)
    rules = policy.evaluation
    if rules.primary.floor is None:
        msg = f"--no-baseline: evaluation.metrics.{rules.primary_name} has no floor, and a first "
        msg += "release is judged by floors alone; add one"
        raise GateInputError(msg)
    groups = _read(candidate, candidate, rules)
    overall, by_subgroup = _overall(groups), _by_subgroup(groups, rules)
    findings = [
        *_floors(overall, by_subgroup, rules),
        *(
            _too_small(group, compared, rules)
            for group, compared in by_subgroup.items()
            if not _is_large(compared, rules)
        ),
        *_other_floors(candidate, rules),
    ]
    return Verdict(
        gate="evaluation",
        outcome=_outcome(findings),
        reason=f"{_conclusion(findings, overall, rules)}; not compared with a baseline",
        findings=tuple(findings),
        metrics={rules.primary_name: overall.candidate},
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
        msg += f"({ours['checkpoint'][:12]}), and a model is never worse than itself; compare with "
        msg += "the model in production, or pass --allow-same-model"
        raise GateInputError(msg)


def _read(
    candidate: PredictionsFile, baseline: PredictionsFile, rules: EvaluationPolicy
) -> _Groups:
    """Return the data from which the primary metric of any group is computed.

    Raises:
        GateInputError: a file lacks what the policy needs, or is damaged.
    """
    columns = list(rules.subgroups.columns)
    missing = [name for name in columns if name not in candidate.subgroups]
    if missing:
        msg = f"{candidate.name}: lacks the subgroup column {missing[0]}, which the policy names; "
        msg += f"it has {', '.join(candidate.subgroups) or 'none'}"
        raise GateInputError(msg)
    is_compared = baseline is not candidate
    for file in (candidate, baseline):
        for name, rule in rules.metrics.items():
            if is_compared or rule.primary or rule.floor is not None:
                _check_has(file, name, rule)
    groups: _Groups
    if rules.primary.of == "correct" and not candidate.has_clusters:
        groups = _Counted(
            tally(candidate, baseline, columns=columns, with_losses=_needs_losses(candidate, rules))
            if is_compared
            else tally(candidate, candidate, columns=columns, with_losses=False)
        )
    else:
        if rules.subgroups.correction == "max_t":
            msg = f"{candidate.name}: has clusters, which subgroups.correction: max_t does not "
            msg += "support; write holm in the policy"
            raise GateInputError(msg)
        wanted = [rules.primary.of]
        found = quantities(candidate, baseline, columns=columns, wanted=wanted)
        groups = _Measured(found, rules.primary)
    for name, expected in rules.subgroups.columns.items():
        _check_values(name, expected, groups.values(name), candidate.name)
    return groups


def _needs_losses(candidate: PredictionsFile, rules: EvaluationPolicy) -> bool:
    """Whether log losses are summed while the examples are counted."""
    return not candidate.has_clusters and any(
        rule.of == "nll" and not rule.primary for rule in rules.metrics.values()
    )


def _check_has(file: PredictionsFile, name: str, rule: MetricRule) -> None:
    """Refuse a file that lacks what a metric is computed from."""
    metric = f"evaluation.metrics.{name}"
    if rule.of.startswith(SCORE):
        score = rule.of.removeprefix(SCORE)
        if score not in file.scores:
            there = ", ".join(f"{SCORE}{each}" for each in file.scores) or "no scores"
            msg = f"{file.name}: lacks the column {rule.of}, whose mean is {metric}; it has {there}"
            raise GateInputError(msg)
        return
    is_error = rule.of in ("absolute_error", "squared_error")
    wanted = "numbers" if is_error else "classes"
    if file.kind != wanted:
        found = {"classes": "classes", "numbers": "floats", None: "scores only"}
        msg = f"{file.name}: holds {found[file.kind]}, but {metric} ({rule.of}) needs "
        msg += f"{found[wanted]}; write label and prediction as {found[wanted]}, or use another "
        msg += "metric"
        raise GateInputError(msg)
    if rule.needs_probabilities and not file.has_probabilities:
        msg = f"{file.name}: has no probabilities, which {metric} needs; write them, or remove the "
        msg += "metric from the policy"
        raise GateInputError(msg)


def _check_values(column: str, expected: list[str], found: list[str], where: str) -> None:
    """Refuse a subgroup that has no examples, or that the policy does not name."""
    if not expected:
        return
    for value in expected:
        if value not in found:
            msg = f"{where}: the subgroup {column}={value}, which the policy names, has no examples"
            raise GateInputError(msg)
    for value in found:
        if value not in expected:
            msg = f"{where}: the subgroup {column}={value} is not named in the policy; "
            msg += f"add it to evaluation.subgroups.columns.{column}, or correct the data"
            raise GateInputError(msg)


def _overall(groups: _Groups) -> Compared:
    overall = groups.compared(_ALL_EXAMPLES)
    if overall is None:
        msg = "the predictions hold no examples"
        raise GateInputError(msg)
    return overall


def groups_of(found: _Groups, rules: EvaluationPolicy) -> list[Group]:
    """Return the policy's subgroups: first those of each column, then the intersections."""
    values = {name: named or found.values(name) for name, named in rules.subgroups.columns.items()}
    single = [Group(((name, value),)) for name, there in values.items() for value in there]
    crossed = [
        Group(((one, first), (other, second)))
        for one, other in rules.subgroups.intersections
        for first in values[one]
        for second in values[other]
    ]
    return single + crossed


def _by_subgroup(groups: _Groups, rules: EvaluationPolicy) -> dict[Group, Compared | None]:
    """Return the primary metric of each subgroup; None for an empty one."""
    return {group: groups.compared(group) for group in groups_of(groups, rules)}


def _is_large(compared: Compared | None, rules: EvaluationPolicy) -> bool:
    return compared is not None and compared.n >= rules.subgroups.minimum_examples


def _large(
    by_subgroup: Mapping[Group, Compared | None], rules: EvaluationPolicy
) -> dict[Group, Compared]:
    return {
        group: compared
        for group, compared in by_subgroup.items()
        if compared is not None and _is_large(compared, rules)
    }


def _primary(overall: Compared, rules: EvaluationPolicy) -> Finding:
    """Judge the primary metric on all examples."""
    return _judge(rules.primary_name, rules.primary, overall, rules)


def _judge(name: str, rule: MetricRule, overall: Compared, rules: EvaluationPolicy) -> Finding:
    """Judge a mean over all examples against its margin."""
    if rule.require == "report":
        reason = "only reported, as the policy asks"
        return _finding(name, OVERALL, overall, NOT_JUDGED, reason, rules, bar=rule.margin)
    must_be_better = rule.require == "superiority"
    bar = 0.0 if must_be_better else rule.margin
    p_value, needed = overall.p_value(bar), None
    if overall.difference < -rule.margin - _rounding(rule):
        outcome, reason = Outcome.FAIL, f"worse by more than the margin of {rule.margin:.4f}"
    elif p_value < rules.alpha:
        outcome = Outcome.PASS
        shown = "superiority shown" if must_be_better else "non-inferiority shown"
        reason = shown if must_be_better else f"{shown} at margin {bar:.4f}"
    elif must_be_better and overall.harm_p_value(bar) < rules.alpha:
        outcome, reason = Outcome.FAIL, "shown to be worse, but superiority is required"
    else:
        outcome, needed = Outcome.INCONCLUSIVE, overall.n_needed(bar, rules)
        limits = f"alpha {rules.alpha:g} (p {p_value:.2g}); "
        reason = f"superiority not shown at {limits}"
        if not must_be_better:
            reason = f"non-inferiority not shown at margin {bar:.4f}, {limits}"
        reason += describe_needed(needed, overall.n, overall.unit)
    return _finding(
        name, OVERALL, overall, outcome, reason, rules, bar=bar, p_value=p_value, n_needed=needed
    )


def _rounding(rule: MetricRule) -> float:
    """Return the tolerance for a difference that lies exactly at the margin.

    Accuracies need none: their difference is one division of counts, rounded as the margin is.
    """
    return 0.0 if rule.of == "correct" else 1e-12


def _finding(  # noqa: PLR0913 - one argument for each column of a finding
    check: str,
    group: str,
    compared: Compared,
    outcome: Outcome | Literal["not judged"],
    reason: str,
    rules: EvaluationPolicy,
    *,
    bar: float,
    p_value: float | None = None,
    adjusted_p_value: float | None = None,
    n_needed: int | None = None,
) -> Finding:
    interval = compared.interval(rules.confidence)
    return Finding(
        check=check,
        group=group,
        outcome=outcome,
        reason=reason,
        n=compared.n,
        value=compared.candidate,
        reference=compared.baseline,
        difference=compared.difference,
        interval=None if interval is None else (interval.low, interval.high),
        confidence=rules.confidence,
        limit=0.0 - bar,
        p_value=p_value,
        adjusted_p_value=adjusted_p_value,
        n_needed=n_needed,
    )


def _subgroups(
    groups: _Groups, by_subgroup: Mapping[Group, Compared | None], rules: EvaluationPolicy
) -> list[Finding]:
    """Judge the primary metric of each subgroup against its margin."""
    large = _large(by_subgroup, rules)
    adjusted = dict(zip(large, _adjusted_harm(groups, large, rules), strict=True))
    return [
        _subgroup(group, large[group], adjusted[group], rules)
        if group in large
        else _too_small(group, compared, rules)
        for group, compared in by_subgroup.items()
    ]


def _adjusted_harm(
    groups: _Groups, large: Mapping[Group, Compared], rules: EvaluationPolicy
) -> list[float]:
    """Return the p-value of harm of each group, corrected for the number of groups."""
    if not large:
        return []
    margin = rules.subgroups.margin
    if rules.subgroups.correction == "holm" or not isinstance(groups, _Counted):
        raw = np.array([each.harm_p_value(margin) for each in large.values()])
        return [float(p) for p in statistics.holm(raw)]
    counted = groups.tally
    counts = [counted.counts(dict(group.values)) for group in large]
    z_values = np.array([statistics.tango_z(each, -margin) for each in counts])
    members = np.stack([counted.members(dict(group.values)) for group in large], axis=1)
    correlation = statistics.cell_correlation(members, counted.outcomes())
    adjusted = statistics.max_t(z_values, correlation, resamples=rules.resamples, seed=rules.seed)
    return [float(p) for p in adjusted]


def _subgroup(
    group: Group, compared: Compared, adjusted_harm: float, rules: EvaluationPolicy
) -> Finding:
    margin, needed = rules.subgroups.margin, None
    p_value = compared.harm_p_value(margin)
    outcome = Outcome.PASS
    reason = f"not shown to be worse by more than {margin:.4f}"
    if adjusted_harm < rules.alpha:
        outcome = Outcome.FAIL
        reason = f"worse by more than {margin:.4f}: p {adjusted_harm:.2g} after correction for "
        reason += "the number of subgroups"
    elif rules.subgroups.require == "noninferiority":
        # All subgroups must pass, which needs no correction: wrongly passing all of them is no
        # likelier than wrongly passing the worst (Berger 1982, Technometrics 24:295-300).
        p_value = compared.p_value(margin)
        reason = f"non-inferiority shown at margin {margin:.4f}"
        if not p_value < rules.alpha:
            outcome, needed = Outcome.INCONCLUSIVE, compared.n_needed(margin, rules)
            reason = f"non-inferiority not shown at margin {margin:.4f} (p {p_value:.2g}); "
            reason += describe_needed(needed, compared.n, compared.unit)
    return _finding(
        rules.primary_name,
        str(group),
        compared,
        outcome,
        reason,
        rules,
        bar=margin,
        p_value=p_value,
        adjusted_p_value=adjusted_harm,
        n_needed=needed,
    )


def _too_small(group: Group, compared: Compared | None, rules: EvaluationPolicy) -> Finding:
    """Report a subgroup with too few examples, with the outcome that the policy sets."""
    minimum = rules.subgroups.minimum_examples
    too_small = rules.subgroups.too_small
    n, unit = (0, "examples") if compared is None else (compared.n, compared.unit)
    return Finding(
        check=rules.primary_name,
        group=str(group),
        outcome=NOT_JUDGED if too_small == "report" else Outcome(too_small),
        reason=f"has {n:,} {unit}, fewer than {minimum:,}",
        n=n,
        n_needed=minimum,
    )


def _floors(
    overall: Compared, by_subgroup: Mapping[Group, Compared | None], rules: EvaluationPolicy
) -> list[Finding]:
    """Judge the candidate's primary metric against the floors, overall and by subgroup."""
    large, name = _large(by_subgroup, rules), rules.primary_name
    floor = rules.subgroups.floor
    p_values = [compared.below_p_value(floor) for compared in large.values()]
    adjusted = statistics.holm(np.array(p_values)).tolist() if p_values else []
    subgroups = [
        _floor(name, str(group), compared, floor, p_value, rules, tests=len(large))
        for (group, compared), p_value in zip(large.items(), adjusted, strict=True)
    ]
    return [*_floor_of_all(name, rules.primary, overall, rules), *subgroups]


def _floor_of_all(
    name: str, rule: MetricRule, overall: Compared, rules: EvaluationPolicy
) -> list[Finding]:
    """Judge a metric against its floor on all examples, if it has one."""
    if rule.floor is None:
        return []
    p_value = overall.below_p_value(rule.floor)
    return [_floor(name, OVERALL, overall, rule.floor, p_value, rules)]


def _floor(  # noqa: PLR0913 - as in `_finding`
    name: str,
    group: str,
    compared: Compared,
    floor: float,
    p_value: float,
    rules: EvaluationPolicy,
    *,
    tests: int = 1,
) -> Finding:
    """Judge whether the candidate meets `floor` and, if not, whether that is significant."""
    value, sign = compared.candidate, compared.sign
    outcome, needed = Outcome.PASS, None
    if compared.is_below(floor):
        outcome = Outcome.FAIL if p_value < rules.alpha else Outcome.INCONCLUSIVE
    evidence = f" (p {p_value:.2g})"
    reason = floor_reason(name, value, floor, sign=sign, outcome=outcome, evidence=evidence)
    if outcome == Outcome.INCONCLUSIVE:
        needed = compared.n_to_show_below(floor, rules, tests=tests)
        reason += f"; {describe_needed(needed, compared.n, compared.unit)}"
    interval = compared.candidate_interval(rules.confidence)
    limits = None
    if interval is not None:
        ends = sorted(sign * (end - floor) for end in (interval.low, interval.high))
        limits = (ends[0], ends[1])
    return Finding(
        check=floor_of(name),
        group=group,
        outcome=outcome,
        reason=reason,
        n=compared.n,
        value=value,
        reference=floor,
        difference=sign * (value - floor),
        interval=limits,
        confidence=rules.confidence,
        limit=0.0,
        adjusted_p_value=p_value,
        n_needed=needed,
    )


def _others(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    groups: _Groups,
    rules: EvaluationPolicy,
) -> list[Finding]:
    """Judge all metrics but the primary one, on all examples."""
    findings: list[Finding] = []
    in_memory = None
    for name, rule in rules.metrics.items():
        if rule.primary:
            continue
        if rule.of == "nll" and rule.floor is None and isinstance(groups, _Counted):
            findings.append(log_loss(name, rule, groups.tally, rules))
        elif rule.is_mean:
            overall = _on_all(candidate, baseline, rule)
            findings.append(_judge(name, rule, overall, rules))
            findings += _floor_of_all(name, rule, overall, rules)
        else:
            _refuse_clusters(candidate, name)
            in_memory = in_memory or arrays(candidate, baseline)
            findings.append(bootstrapped(name, rule, in_memory, rules))
            if rule.floor is not None:
                findings.append(judge_floor(name, rule, rule.floor, in_memory, rules))
    return findings


def _other_floors(candidate: PredictionsFile, rules: EvaluationPolicy) -> list[Finding]:
    """Judge all metrics with a floor but the primary one, without a baseline."""
    findings: list[Finding] = []
    in_memory = None
    for name, rule in rules.metrics.items():
        if rule.primary or rule.floor is None:
            continue
        if rule.is_mean:
            overall = _on_all(candidate, candidate, rule)
            findings += _floor_of_all(name, rule, overall, rules)
        else:
            _refuse_clusters(candidate, name)
            in_memory = in_memory or arrays(candidate, candidate)
            findings.append(judge_floor(name, rule, rule.floor, in_memory, rules))
    return findings


def _refuse_clusters(candidate: PredictionsFile, name: str) -> None:
    if candidate.has_clusters:
        msg = f"{candidate.name}: has clusters, but evaluation.metrics.{name} needs "
        msg += "independent examples; remove the metric from the policy"
        raise GateInputError(msg)


def _on_all(candidate: PredictionsFile, baseline: PredictionsFile, rule: MetricRule) -> Compared:
    return _overall(_Measured(quantities(candidate, baseline, columns=[], wanted=[rule.of]), rule))


def _outcome(findings: list[Finding]) -> Outcome:
    judged = [Outcome(each.outcome) for each in findings if each.outcome != NOT_JUDGED]
    return Outcome.worst(judged)


def _conclusion(findings: list[Finding], overall: Compared, rules: EvaluationPolicy) -> str:
    """Return one sentence: the overall figures, then the findings that decided the outcome."""
    first = findings[0]
    is_compared = not is_floor(first.check)
    before = f"{first.reference:.4f} -> " if is_compared else ""
    change = f" ({first.difference:+.4f})" if is_compared else ""
    kind = overall.unit.removesuffix("s")
    examples = f"1 held-out {kind}" if first.n == 1 else f"{first.n:,} held-out {kind}s"
    start = f"{rules.primary_name} {before}{first.value:.4f}{change} on {examples}"
    outcome = _outcome(findings)
    if outcome == Outcome.PASS:
        return f"{start}: {first.reason}"
    decisive = [each for each in findings if each.outcome == outcome]
    details = "; ".join(f"{each.check}, {each.group}: {each.reason}" for each in decisive[:3])
    rest = f"; and {len(decisive) - 3} more" if len(decisive) > 3 else ""  # noqa: PLR2004
    return f"{start}: {details}{rest}"


def _figures(findings: list[Finding]) -> dict[str, float]:
    return {
        each.check: each.value
        for each in findings
        if each.group == OVERALL and each.value is not None and not is_floor(each.check)
    }


def _evidence(candidate: PredictionsFile, policy: Policy) -> dict[str, str]:
    return {
        **candidate.digests,
        "policy": policy.digest,
        "predictions": sha256(candidate.path),
    }


def _unproved(*files: PredictionsFile) -> dict[str, str]:
    """Return a note on predictions without a digest of their content."""
    names = [file.name for file in files if not file.is_sealed]
    note = f"no content_digest in {' and '.join(names)}; later changes would go unnoticed"
    return {"unproved": note} if names else {}

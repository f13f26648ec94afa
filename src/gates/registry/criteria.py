"""The criteria for moving a version to a stage, each judged as a finding."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gates.errors import GateError, GateInputError
from gates.evaluation.comparison import accept_without_baseline, compare
from gates.evaluation.policy import Policy, StageRule
from gates.evaluation.predictions import open_predictions
from gates.evidence import provenance
from gates.registry import evidence
from gates.registry.attestation import problem_of_attestation
from gates.registry.files import PREDICTIONS, PROVENANCE, SBOM, VERDICT, data_verdict
from gates.registry.history import Stage
from gates.registry.repository import problem_of_sbom, problem_of_source
from gates.registry.stages import StageState
from gates.registry.store import Version
from gates.verdicts.verdict import Finding, Outcome, Verdict, read_verdict

# The group of findings that are about the version as a whole, not about examples.
GROUP = "version"

_LOGIN = re.compile(r"[a-z0-9][a-z0-9 ._@+-]*")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The facts on which a promotion is judged.

    Args:
        version: the version to promote.
        stage: the stage to move it to.
        policy: the policy with its limits.
        rule: what the policy requires for that stage.
        stages: the state of each stage now.
        production: the version in production now, if any.
        production_checkpoint: its checkpoint; None if it was not registered by `gates register`.
        production_is_gone: whether it was deleted.
        production_data: the data it was judged on; None if it was not registered by
            `gates register`.
        baseline: the predictions of the model in production on the version's data, if any.
        declared: SHA-256 of each data set that the project declares.
        files: a folder with the version's files, checked to be as registered.
        verdict: a verdict of the evaluation gate that replaces the registered one.
        by: who promotes.
        approver: who else agrees.
        now: the current time.
    """

    version: Version
    stage: Stage
    policy: Policy
    rule: StageRule
    stages: Mapping[Stage, StageState]
    production: int | None
    production_checkpoint: str | None
    production_is_gone: bool
    production_data: str | None
    baseline: Path | None
    declared: Collection[str]
    files: Path
    verdict: Path | None
    by: str
    approver: str | None
    now: datetime

    @property
    def verdict_file(self) -> Path:
        """The verdict to judge by."""
        return self.verdict or self.files / VERDICT


def judge(case: Case) -> list[Finding]:
    """Return every criterion of a promotion, whether it is met, and why."""
    return [
        *_place(case),
        _evidence(case),
        *_evaluation(case),
        _declared(case),
        *_data(case),
        *_origin(case),
        *_time_in_staging(case),
        *_approval(case),
    ]


def criterion(name: str, *, holds: bool, reason: str) -> Finding:
    """Return a criterion as a finding that passes or fails."""
    outcome = Outcome.PASS if holds else Outcome.FAIL
    return Finding(check=name, group=GROUP, outcome=outcome, reason=reason, n=0)


def _place(case: Case) -> Iterator[Finding]:
    if case.stage == "production":
        staged = case.stages["staging"].current
        yield criterion(
            "in staging",
            holds=staged == case.version.number,
            reason=f"staging has version {staged or 'none'}; only that one may go to production",
        )


def _evidence(case: Case) -> Finding:
    """Judge whether the files are consistent, with each other and with the registered facts."""
    try:
        facts = evidence.facts(case.files, case.files / VERDICT)
    except GateError as error:
        return criterion("evidence", holds=False, reason=_describe(case, error))
    differs = [name for name, value in facts.items() if value != case.version.fact(name)]
    mismatch = f"the registered facts differ from its files in: {', '.join(differs)}"
    return criterion(
        "evidence", holds=not differs, reason=mismatch if differs else "its files fit together"
    )


def _declared(case: Case) -> Finding:
    data = case.version.fact("data")
    if data in case.declared:
        reason = f"{_short(data)} is declared in promotion.data"
    elif data == case.production_data:
        reason = f"version {case.production}, in production, was judged on {_short(data)} too"
    else:
        reason = f"it was judged on {_short(data)}, which promotion.data does not declare and "
        reason += "production was not judged on; judge it on the project's data, or declare this"
    holds = data in case.declared or data == case.production_data
    return criterion("declared data", holds=holds, reason=reason)


def _evaluation(case: Case) -> Iterator[Finding]:
    try:
        verdict = read_verdict(case.verdict_file)
    except GateInputError as error:
        yield criterion("verdict", holds=False, reason=_describe(case, error))
        for name in _ON_VERDICT:
            yield criterion(name, holds=False, reason="there is no readable verdict")
        return
    yield criterion(
        "verdict",
        holds=verdict.gate == "evaluation" and verdict.is_pass,
        reason=f"{verdict.gate}: {verdict.outcome}: {verdict.reason}{_contradiction(verdict)}",
    )
    yield _recomputed(case, verdict)
    checkpoint = case.version.fact("checkpoint")
    judged = verdict.evidence.get("checkpoint")
    yield criterion(
        "verdict on this checkpoint",
        holds=judged == checkpoint,
        reason=f"it judged {_short(judged)}; this version is {_short(checkpoint)}",
    )
    data, scored = case.version.fact("data"), verdict.evidence.get("data")
    yield criterion(
        "verdict on its data",
        holds=scored == data,
        reason=f"it judged on {_short(scored)}; this version was registered with {_short(data)}",
    )
    yield _against_production(case, verdict)
    file, limits = verdict.evidence.get("policy"), case.policy.evaluation.limits
    is_same = file == case.policy.digest and verdict.policy == limits
    reason = f"it was reached with the policy file {_short(file)}; the current one is "
    reason += f"{_short(case.policy.digest)}, with "
    reason += f"{'the same' if verdict.policy == limits else 'other'} limits"
    if not is_same:
        reason += "; after any change to the file, or with --fail-if-worse-than, judge again"
    yield criterion("verdict by this policy", holds=is_same, reason=reason)


# The criteria that need a readable verdict.
_ON_VERDICT = (
    "verdict recomputed",
    "verdict on this checkpoint",
    "verdict on its data",
    "verdict against production",
    "verdict by this policy",
)


def _recomputed(case: Case, verdict: Verdict) -> Finding:
    """Judge the registered predictions again, since a verdict is a file that anybody can edit."""
    name = "verdict recomputed"
    try:
        candidate = open_predictions(case.files / PREDICTIONS, name=PREDICTIONS)
        if verdict.evidence.get("baseline") is None:
            why = verdict.notes.get("no baseline", "")
            again = accept_without_baseline(candidate, case.policy, why=why)
        elif case.baseline is None:
            reason = "production's predictions on this data are not registered; register the run "
            reason += "again with this verdict and its baseline_predictions.parquet"
            return criterion(name, holds=False, reason=reason)
        else:
            baseline = open_predictions(case.baseline, name="production's predictions")
            again = compare(candidate, baseline, case.policy, allow_same_model=True)
    except GateError as error:
        return criterion(name, holds=False, reason=_describe(case, error))
    reason = f"from the registered predictions: {again.outcome}: {again.reason}"
    return criterion(name, holds=again.is_pass, reason=reason)


def _against_production(case: Case, verdict: Verdict) -> Finding:
    baseline = verdict.evidence.get("baseline")
    name = "verdict against production"
    if case.production is None:
        return criterion(
            name,
            holds=baseline is None,
            reason="nothing is in production, so there must be no baseline",
        )
    current = case.production_checkpoint
    if case.production_is_gone or current is None:
        return criterion(
            name,
            holds=baseline in {None, current},
            reason=f"version {case.production}, in production, was deleted or never registered: "
            "there is no other baseline",
        )
    if current == case.version.fact("checkpoint"):
        return criterion(name, holds=True, reason="this checkpoint is already in production")
    reason = f"its baseline is {_short(baseline)}; version {case.production} "
    reason += f"({_short(current)}) is in production"
    if baseline != current:
        reason += f"; judge again with --baseline models:/{case.version.model}@production and "
        reason += "pass the new --verdict"
    return criterion(name, holds=baseline == current, reason=reason)


def _data(case: Case) -> Iterator[Finding]:
    for gate in case.rule.data_gates:
        name = f"data gate {gate}"
        file = data_verdict(gate)
        if file not in case.version.files:
            reason = f"it has no verdict of the gate {gate}; register one with --data-verdict"
            yield criterion(name, holds=False, reason=reason)
            continue
        try:
            verdict = read_verdict(case.files / file)
        except GateInputError as error:
            yield criterion(name, holds=False, reason=_describe(case, error))
            continue
        is_on_this_data = verdict.evidence.get("data") == case.version.fact("data")
        yield criterion(
            name,
            holds=is_on_this_data and verdict.gate == gate and verdict.is_pass,
            reason=f"{verdict.outcome}: {verdict.reason}",
        )


def _origin(case: Case) -> Iterator[Finding]:
    """Judge the version's origin by its provenance, git and the lock, as the policy requires."""
    if case.rule.sbom:
        success = "it lists the packages of the run's lock"
        yield _origin_criterion(case, "SBOM", _problem_of_sbom, success)
    if case.rule.clean_source:
        commit = case.version.fact("commit")[:8]
        success = f"built from commit {commit} and its lock, without local changes"
        yield _origin_criterion(
            case, "clean source", lambda _, statement: problem_of_source(statement), success
        )
    signer = case.policy.promotion.attested_by if case.policy.promotion else "none"
    if signer != "none":

        def problem(case: Case, _: dict[str, Any]) -> str | None:
            return problem_of_attestation(case.files, signer)

        yield _origin_criterion(case, "attestation", problem, f"signed by {signer}")


def _origin_criterion(
    case: Case, name: str, problem_of: Callable[[Case, dict[str, Any]], str | None], success: str
) -> Finding:
    try:
        problem = problem_of(case, provenance.read(case.files / PROVENANCE))
    except GateInputError as error:
        problem = _describe(case, error)
    return criterion(name, holds=problem is None, reason=problem or success)


def _problem_of_sbom(case: Case, statement: dict[str, Any]) -> str | None:
    if SBOM not in case.version.files:
        return f"it has no {SBOM}; write one, then register with --sbom"
    return problem_of_sbom(case.files / SBOM, statement)


def _time_in_staging(case: Case) -> Iterator[Finding]:
    needed = case.rule.hours_in_staging
    if not needed:
        return
    since = case.stages["staging"].since
    is_there = case.stages["staging"].current == case.version.number
    hours = 0.0
    if since is not None and is_there:
        hours = (case.now - since.when).total_seconds() / 3600
    yield criterion(
        "time in staging", holds=hours >= needed, reason=f"{hours:.1f} of {needed:g} hours"
    )


def _approval(case: Case) -> Iterator[Finding]:
    if case.rule.approver == "none":
        return
    if not case.approver or not case.approver.strip():
        yield criterion("approver", holds=False, reason="nobody is named; add --approver NAME")
        return
    approver, by = _identity(case.approver), _identity(case.by)
    problem = None
    if case.rule.approver == "somebody else":
        if approver is None or by is None:
            problem = "the two cannot be distinguished; use logins of plain letters and digits"
        elif approver == by:
            problem = "the approver must be somebody else"
    yield criterion(
        "approver",
        holds=problem is None,
        reason=f"{case.approver} agrees; {case.by} promotes{f', but {problem}' * bool(problem)}",
    )


def _identity(name: str) -> str | None:
    """Return a login in normal form, the same for all its spellings; None unless it is plain.

    With look-alike letters, accents or zero-width characters, one person could pass for two.
    """
    same = unicodedata.normalize("NFKC", " ".join(name.split())).casefold()
    return same if _LOGIN.fullmatch(same) else None


def _describe(case: Case, error: GateError) -> str:
    """Return the error's message, with a file's name in the registry and not the copy's path."""
    return str(error).replace(f"{case.files}/", "")


def _contradiction(verdict: Verdict) -> str:
    """Return which findings contradict a verdict that claims to pass; empty if none does."""
    if verdict.is_pass or verdict.outcome is not Outcome.PASS:
        return ""
    against = [f"{each.check} {each.group}" for each in verdict.findings if not each.holds]
    return f"; but its own findings contradict that: {', '.join(against) or 'it has none'}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "nothing"

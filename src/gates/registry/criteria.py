"""What a version must show before it moves to a stage: each criterion, with its state."""

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
from gates.registry.stages import Occupancy
from gates.registry.store import Version
from gates.verdicts.verdict import Finding, Outcome, Verdict, read_verdict

# Of findings that are about no examples.
GROUP = "version"

_LOGIN = re.compile(r"[a-z0-9][a-z0-9 ._@+-]*")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a promotion is judged by.

    Args:
        version: that is to be promoted.
        stage: where to.
        policy: with its limits.
        rule: what the policy asks for at that stage.
        stages: who is where now.
        production: the version in production now, if there is one.
        production_checkpoint: its checkpoint; None if nobody registered it.
        production_is_gone: whether it was deleted.
        production_data: the data that it was judged on; None if nobody registered it.
        baseline: the predictions of the model in production on the version's data, if there are
            any.
        declared: SHA-256 of the data that the project declares.
        files: a folder with the version's verdicts, checked to be what was registered.
        verdict: one of the evaluation gate that is newer than the registered one.
        by: who promotes.
        approver: who else agrees.
        now: the time.
    """

    version: Version
    stage: Stage
    policy: Policy
    rule: StageRule
    stages: Mapping[Stage, Occupancy]
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
        """The verdict that counts."""
        return self.verdict or self.files / VERDICT


def judge(case: Case) -> list[Finding]:
    """Return every criterion of a promotion: what holds, and what does not and why."""
    return [
        *_place(case),
        _evidence(case),
        *_evaluation(case),
        _declared(case),
        *_data(case),
        *_origin(case),
        *_patience(case),
        *_consent(case),
    ]


def criterion(name: str, *, holds: bool, reason: str) -> Finding:
    """Return a criterion with its state."""
    outcome = Outcome.PASS if holds else Outcome.FAIL
    return Finding(check=name, group=GROUP, outcome=outcome, reason=reason, n=0)


def _place(case: Case) -> Iterator[Finding]:
    if case.stage == "production":
        there = case.stages["staging"].current
        yield criterion(
            "in staging",
            holds=there == case.version.number,
            reason=f"version {there or 'none'} is there, the only way to production",
        )


def _evidence(case: Case) -> Finding:
    """Judge whether the files fit together, and are what was noted when they were registered."""
    try:
        facts = evidence.facts(case.files, case.files / VERDICT)
    except GateError as error:
        return criterion("evidence", holds=False, reason=_told(case, error))
    differs = [name for name, value in facts.items() if value != case.version.fact(name)]
    told = f"what was noted of it is not what its files say: {', '.join(differs)}"
    return criterion(
        "evidence", holds=not differs, reason=told if differs else "its files fit together"
    )


def _declared(case: Case) -> Finding:
    data = case.version.fact("data")
    if data in case.declared:
        reason = f"{_short(data)} is declared in promotion.data"
    elif data == case.production_data:
        reason = f"{_short(data)} is what version {case.production}, in production, was judged on"
    else:
        reason = f"it is judged on {_short(data)}, which promotion.data does not declare and "
        reason += "production was not judged on; judge it on the project's data, or declare this"
    holds = data in case.declared or data == case.production_data
    return criterion("declared data", holds=holds, reason=reason)


def _evaluation(case: Case) -> Iterator[Finding]:
    try:
        verdict = read_verdict(case.verdict_file)
    except GateInputError as error:
        yield criterion("verdict", holds=False, reason=_told(case, error))
        for name in _ON_VERDICT:
            yield criterion(name, holds=False, reason="there is none that can be read")
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
        reason=f"it judges {_short(judged)}; this version is {_short(checkpoint)}",
    )
    data, scored = case.version.fact("data"), verdict.evidence.get("data")
    yield criterion(
        "verdict on its data",
        holds=scored == data,
        reason=f"it judges on {_short(scored)}; this version was registered with {_short(data)}",
    )
    yield _against_production(case, verdict)
    file, limits = verdict.evidence.get("policy"), case.policy.evaluation.limits
    yield criterion(
        "verdict by this policy",
        holds=file == case.policy.digest and verdict.policy == limits,
        reason=f"it was reached by the policy file {_short(file)}; in force is "
        f"{_short(case.policy.digest)}, with {'the same' if verdict.policy == limits else 'other'} "
        "limits; any change of the file, and --fail-if-worse-than, need another verdict",
    )


# What is asked of a verdict besides that there is one.
_ON_VERDICT = (
    "verdict recomputed",
    "verdict on this checkpoint",
    "verdict on its data",
    "verdict against production",
    "verdict by this policy",
)


def _recomputed(case: Case, verdict: Verdict) -> Finding:
    """Judge the registered predictions again: a verdict is a file that anybody can edit."""
    name = "verdict recomputed"
    try:
        candidate = open_predictions(case.files / PREDICTIONS, name=PREDICTIONS)
        if verdict.evidence.get("baseline") is None:
            why = verdict.notes.get("no baseline", "")
            again = accept_without_baseline(candidate, case.policy, why=why)
        elif case.baseline is None:
            reason = "the predictions of production on this data are not registered; register the "
            reason += "run anew with this verdict and its baseline_predictions.parquet"
            return criterion(name, holds=False, reason=reason)
        else:
            baseline = open_predictions(case.baseline, name="the predictions of production")
            again = compare(candidate, baseline, case.policy, allow_same_model=True)
    except GateError as error:
        return criterion(name, holds=False, reason=_told(case, error))
    reason = f"from the registered predictions: {again.outcome}: {again.reason}"
    return criterion(name, holds=again.is_pass, reason=reason)


def _against_production(case: Case, verdict: Verdict) -> Finding:
    baseline = verdict.evidence.get("baseline")
    name = "verdict against production"
    if case.production is None:
        return criterion(
            name, holds=baseline is None, reason="nothing is in production to compare with"
        )
    there = case.production_checkpoint
    if case.production_is_gone or there is None:
        return criterion(
            name,
            holds=baseline in {None, there},
            reason=f"version {case.production}, in production, was deleted or never registered: "
            "there is nothing else to compare with",
        )
    if there == case.version.fact("checkpoint"):
        return criterion(name, holds=True, reason="this checkpoint is in production already")
    return criterion(
        name,
        holds=baseline == there,
        reason=f"it compares with {_short(baseline)}, and version {case.production} "
        f"({_short(there)}) is in production; judge again with --baseline "
        f"models:/{case.version.model}@production and name that verdict",
    )


def _data(case: Case) -> Iterator[Finding]:
    for gate in case.rule.data_gates:
        name = f"data gate {gate}"
        file = data_verdict(gate)
        if file not in case.version.files:
            reason = f"there is no verdict of the gate {gate}; register it with --data-verdict"
            yield criterion(name, holds=False, reason=reason)
            continue
        try:
            verdict = read_verdict(case.files / file)
        except GateInputError as error:
            yield criterion(name, holds=False, reason=_told(case, error))
            continue
        is_right = verdict.evidence.get("data") == case.version.fact("data")
        yield criterion(
            name,
            holds=is_right and verdict.gate == gate and verdict.is_pass,
            reason=f"{verdict.outcome}: {verdict.reason}",
        )


def _origin(case: Case) -> Iterator[Finding]:
    """Judge where it comes from, as far as the policy asks: by its provenance, git and the lock."""
    if case.rule.sbom:
        yield _of_origin(case, "SBOM", _problem_of_sbom, "it lists what the run's lock has")
    if case.rule.clean_source:
        commit = case.version.fact("commit")[:8]
        told = f"commit {commit} says all of it, with its lock"
        yield _of_origin(case, "clean source", lambda _, made: problem_of_source(made), told)
    signer = case.policy.promotion.attested_by if case.policy.promotion else "none"
    if signer != "none":

        def problem(case: Case, _: dict[str, Any]) -> str | None:
            return problem_of_attestation(case.files, signer)

        yield _of_origin(case, "attestation", problem, f"signed by {signer}")


def _of_origin(
    case: Case, name: str, problem_of: Callable[[Case, dict[str, Any]], str | None], told: str
) -> Finding:
    try:
        problem = problem_of(case, provenance.read(case.files / PROVENANCE))
    except GateInputError as error:
        problem = _told(case, error)
    return criterion(name, holds=problem is None, reason=problem or told)


def _problem_of_sbom(case: Case, statement: dict[str, Any]) -> str | None:
    if SBOM not in case.version.files:
        return f"{SBOM} must be one of its files; write it, then register with --sbom"
    return problem_of_sbom(case.files / SBOM, statement)


def _patience(case: Case) -> Iterator[Finding]:
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


def _consent(case: Case) -> Iterator[Finding]:
    if case.rule.approver == "none":
        return
    if not case.approver or not case.approver.strip():
        yield criterion("approver", holds=False, reason="nobody is named; say --approver NAME")
        return
    approver, by = _identity(case.approver), _identity(case.by)
    problem = None
    if case.rule.approver == "somebody else":
        if approver is None or by is None:
            problem = "the two cannot be distinguished; use logins of plain letters and digits"
        elif approver == by:
            problem = "that must be somebody else"
    yield criterion(
        "approver",
        holds=problem is None,
        reason=f"{case.approver} agrees; {case.by} promotes{f', and {problem}' * bool(problem)}",
    )


def _identity(name: str) -> str | None:
    """Return what two spellings of one login have in common; None if `name` is not a plain one.

    Letters that look alike, accents and what has no width would make the same person
    somebody else.
    """
    same = unicodedata.normalize("NFKC", " ".join(name.split())).casefold()
    return same if _LOGIN.fullmatch(same) else None


def _told(case: Case, error: GateError) -> str:
    """Return what is wrong with a file, by its name in the registry, not by that of the copy."""
    return str(error).replace(f"{case.files}/", "")


def _contradiction(verdict: Verdict) -> str:
    """Return what speaks against a verdict that calls itself a pass."""
    if verdict.is_pass or verdict.outcome is not Outcome.PASS:
        return ""
    against = [f"{each.check} {each.group}" for each in verdict.findings if not each.holds]
    return f"; but not by its own findings: {', '.join(against) or 'it has none'}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "nothing"

"""The audit of the locked packages: vulnerabilities, malware, yanked releases and licences.

Checks that need no network run first, so that an expired entry is found offline too. Without an
answer from the database the audit is inconclusive, whatever its last answer was.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from rapidfuzz.distance import OSA

from gates.files import sha256, write_text
from gates.services import UnreachableError
from gates.supply.advisories import Advisory, ask_database
from gates.supply.audit_settings import AuditSettings, Ignored, load_audit_settings
from gates.supply.index import withdrawn
from gates.supply.licences import read_record, unacceptable
from gates.supply.locked import LockedPackage, read_lock
from gates.verdicts.verdict import NOT_JUDGED, OVERALL, Finding, Outcome, Verdict

# Shorter names resemble each other by chance.
_SHORTEST = 4
_LONG = 8


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The locations of the audit's inputs.

    Args:
        lock: uv.lock.
        settings: configs/audit.yaml.
        licences: the recorded licences.
        last_answer: the file that records when the database last answered.
        database: address of the database; overrides the one in the settings.
        index: address of the package index; None to skip the check for yanked releases.
        base_lock: the lock before the change under review; None if unknown.
    """

    lock: Path
    settings: Path
    licences: Path
    last_answer: Path
    database: str | None
    index: str | None
    base_lock: Path | None = None


def audit(sources: Sources, *, now: datetime) -> Verdict:
    """Return the verdict on every version in the lock.

    Raises:
        GateInputError: an input is missing, or a service gave no answer and nothing is known
            to be wrong without it.
    """
    packages = read_lock(sources.lock)
    settings = load_audit_settings(sources.settings)
    before = read_lock(sources.base_lock) if sources.base_lock else packages
    local = [
        *_expired(settings, sources.settings, today=now.date()),
        *_licences(packages, settings, read_record(sources.licences)),
        *_names(packages, before, settings, sources.settings),
    ]
    address = (sources.database or settings.database).rstrip("/")
    try:
        advisories = ask_database(packages, address)
        yanked = withdrawn(packages, sources.index) if sources.index else None
    except UnreachableError as error:
        reason = f"{error}; {_age_of_last_answer(sources, now)}; nothing is known for today"
        unknown = _finding("vulnerabilities", OVERALL, reason, Outcome.INCONCLUSIVE)
        return _verdict([*local, unknown], packages, sources)
    _keep_answer(packages, sources, now)
    online = [
        *_vulnerabilities(packages, advisories, settings),
        *_unused(advisories, settings, sources.settings),
        *_yanked(packages, yanked),
    ]
    return _verdict([*online, *local], packages, sources)


def lookalikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return each pair of names that differ by one typo or, if they are long, by two."""
    ordered = sorted(set(names))
    return [
        (one, other)
        for place, one in enumerate(ordered)
        for other in ordered[place + 1 :]
        if _resemble(one.replace("-", ""), other.replace("-", ""))
    ]


def _expired(settings: AuditSettings, file: Path, *, today: date) -> list[Finding]:
    expired = [
        _finding(
            "ignore list",
            each.id,
            f"{file}: {each.id} for {each.package} expired on {each.expires}; "
            f"update the package, or ask {each.owner} to decide again",
        )
        for each in settings.ignore
        if each.expires < today
    ]
    return expired or [_passed("ignore list", len(settings.ignore))]


def _licences(
    packages: Sequence[LockedPackage], settings: AuditSettings, record: dict[str, str]
) -> list[Finding]:
    exceptions = settings.read_by_people
    reasons = unacceptable(packages, record, allowed=settings.licences)
    found = [
        _finding("licence", package.key, reason)
        for package, reason in reasons.items()
        if package.name not in exceptions
    ]
    needed = {package.name for package in reasons}
    found += [
        _finding("licence", name, "has an exception that is not needed; remove it")
        for name in sorted(exceptions.keys() - needed)
    ]
    return found or [_passed("licence", len(packages))]


def _names(
    packages: Sequence[LockedPackage],
    before: Sequence[LockedPackage],
    settings: AuditSettings,
    file: Path,
) -> list[Finding]:
    """Find locked names that resemble each other, or a name that they replace."""
    names = {package.name for package in packages}
    gone = {package.name for package in before} - names
    known = {each.package for each in settings.lookalikes}
    found = [
        _finding(
            "name",
            f"{one} / {other}",
            f"{'one replaces the other' if {one, other} & gone else 'both are locked'}, and they "
            f"resemble each other; if both are genuine, add one to lookalikes in {file}",
        )
        for one, other in lookalikes(names | gone)
        if not {one, other} & known and not {one, other} <= gone
    ]
    return found or [_passed("name", len(names))]


def _vulnerabilities(
    packages: Sequence[LockedPackage], advisories: Iterable[Advisory], settings: AuditSettings
) -> list[Finding]:
    found = [
        _finding(
            "malware" if each.is_malware else "vulnerability",
            each.package,
            f"{', '.join([each.id, *each.aliases])}: {each.summary}",
        )
        for each in advisories
        # Malware cannot be ignored.
        if each.is_malware or not any(_covers(entry, each) for entry in settings.ignore)
    ]
    return found or [_passed("vulnerabilities", len(packages))]


def _unused(advisories: Sequence[Advisory], settings: AuditSettings, file: Path) -> list[Finding]:
    return [
        _finding(
            "ignore list",
            entry.id,
            f"{file}: {entry.id} for {entry.package} covers nothing in the lock; remove it",
        )
        for entry in settings.ignore
        if not any(_covers(entry, each) for each in advisories)
    ]


def _yanked(packages: Sequence[LockedPackage], reasons: dict[str, str] | None) -> list[Finding]:
    if reasons is None:
        reason = "not checked without a package index; name one with --index or AUDIT_INDEX"
        return [_finding("yanked", OVERALL, reason, NOT_JUDGED)]
    found = [_finding("yanked", key, reason) for key, reason in reasons.items()]
    return found or [_passed("yanked", len(packages))]


def _covers(entry: Ignored, advisory: Advisory) -> bool:
    return entry.package == advisory.name and entry.id in {advisory.id, *advisory.aliases}


def _verdict(
    findings: Sequence[Finding], packages: Sequence[LockedPackage], sources: Sources
) -> Verdict:
    judged = [Outcome(each.outcome) for each in findings if each.outcome != NOT_JUDGED]
    wrong = [each for each in findings if each.outcome == Outcome.FAIL]
    open_ones = [each for each in findings if each.outcome in {NOT_JUDGED, Outcome.INCONCLUSIVE}]
    return Verdict(
        gate="audit",
        outcome=Outcome.worst(judged),
        reason=f"{len(packages)} locked versions, {len(wrong)} findings",
        findings=tuple(findings),
        metrics={"packages": len(packages), "findings": len(wrong)},
        evidence={
            "lock": sha256(sources.lock),
            "settings": sha256(sources.settings),
            "licences": sha256(sources.licences),
        },
        notes={f"not shown: {each.check}": each.reason for each in open_ones},
    )


def _finding(check: str, group: str, reason: str, outcome: Outcome | str = Outcome.FAIL) -> Finding:
    fields = {"check": check, "group": group, "outcome": outcome, "reason": reason, "n": 1}
    return Finding.model_validate(fields)


def _passed(check: str, n: int) -> Finding:
    return Finding(check=check, group=OVERALL, outcome=Outcome.PASS, reason="nothing found", n=n)


def _keep_answer(packages: Sequence[LockedPackage], sources: Sources, now: datetime) -> None:
    answer = {"asked": now.isoformat(), "lock": sha256(sources.lock), "packages": len(packages)}
    write_text(sources.last_answer, json.dumps(answer) + "\n")


def _age_of_last_answer(sources: Sources, now: datetime) -> str:
    try:
        answer = json.loads(sources.last_answer.read_text(encoding="utf-8"))
        age = now - datetime.fromisoformat(answer["asked"]).astimezone(UTC)
        same = "this" if answer["lock"] == sha256(sources.lock) else "another"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has never answered on this machine"
    hours = age.total_seconds() / 3600
    return f"its last answer is {hours:.1f} hours old and about {same} lock"


def _resemble(one: str, other: str) -> bool:
    """Whether few letters are wrong, missing, added or swapped with the next one."""
    shorter = min(len(one), len(other))
    limit = 1 if shorter < _LONG else 2
    return shorter >= _SHORTEST and OSA.distance(one, other, score_cutoff=limit) <= limit

"""Checks of a run's source and SBOM against the project's repository and its lock."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.supply.locked import parse_lock, shipped

_LOCK = "uv.lock"


def problem_of_source(statement: dict[str, Any]) -> str | None:
    """Return what is wrong with the commit or the lock that a run names, if anything.

    Args:
        statement: the run's provenance.
    """
    found = provenance.facts(statement)
    commit, lock = found.get("source", ""), found.get(_LOCK)
    if not commit:
        return "it names no commit; commit, then train again"
    if provenance.is_dirty(statement):
        return f"the source differed from commit {commit[:8]}; commit, then train again"
    known = _git("cat-file", "-e", f"{commit}^{{commit}}")
    if known.returncode:
        reason = known.stderr.decode(errors="replace").strip() or "git does not know it"
        return f"commit {commit[:8]} cannot be found here: {reason}; git fetch origin {commit}"
    if _digest(_committed(commit)) != lock:
        return f"{_LOCK} in commit {commit[:8]} is not the one that the run names"
    return _problem_of_versions(statement, found)


def problem_of_sbom(file: Path, statement: dict[str, Any]) -> str | None:
    """Return how a bill of materials differs from the lock that a run names, if it does.

    Args:
        file: the bill of materials, as CycloneDX JSON.
        statement: the run's provenance.
    """
    try:
        listed = {
            f"{each['name']}=={each['version']}": {digest["content"] for digest in each["hashes"]}
            for each in json.loads(file.read_text(encoding="utf-8"))["components"]
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return (
            f"not a CycloneDX document that lists components (no {error}); nox -s sbom writes one"
        )
    lock = _lock_of(provenance.facts(statement))
    if lock is None:
        return f"the {_LOCK} that the run names is neither here nor in its commit; check that out"
    package = provenance.package(statement)
    try:
        everything = parse_lock(lock.decode(), where=_LOCK)
        packages = shipped(lock.decode(), package, where=_LOCK) if package else everything
    except GateInputError as error:
        return str(error)
    locked = {each.key: {digest for _, digest in each.files} for each in packages}
    missing = sorted(locked.keys() - listed.keys())
    foreign = sorted(listed.keys() - locked.keys())
    other = sorted(key for key in listed.keys() & locked.keys() if listed[key] != locked[key])
    for verb, keys in (("lacks", missing), ("adds", foreign), ("has other files of", other)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""  # noqa: PLR2004
            return f"it {verb} {', '.join(keys[:3])}{more}, unlike {_LOCK}; run nox -s sbom"
    return None


def _problem_of_versions(statement: dict[str, Any], found: dict[str, str]) -> str | None:
    """Return which package the run used in a version that is not in its lock, if any."""
    lock = _lock_of(found)
    versions: dict[str, set[str]] = {}
    for package in parse_lock(lock.decode(), where=_LOCK) if lock else ():
        versions.setdefault(package.name, set()).add(package.version)
    for name, version in provenance.runtime(statement).items():
        # Wheels from the PyTorch index add the CUDA version: 2.15.0+cu130.
        if name in versions and version.partition("+")[0] not in versions[name]:
            return f"it ran with {name} {version}, but {_LOCK} has {', '.join(versions[name])}"
    return None


def _lock_of(found: dict[str, str]) -> bytes | None:
    """Return the lock that a run names, from the current folder or from its commit."""
    digest = found.get(_LOCK)
    here = Path(_LOCK)
    for content in (here.read_bytes() if here.is_file() else None, _committed(found.get("source"))):
        if content is not None and _digest(content) == digest:
            return content
    return None


def _committed(commit: str | None) -> bytes | None:
    if not commit:
        return None
    shown = _git("show", f"{commit}:{_LOCK}")
    return shown.stdout if shown.returncode == 0 else None


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)  # noqa: S603, S607
    except OSError as error:
        msg = f"git cannot be run ({error.strerror}); a promotion needs it for the run's commit"
        raise GateInputError(msg) from error

"""Derives the next version from the commits since the last one.

https://semver.org/spec/v2.0.0.html
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tasks import git
from tasks.packaging import commits
from tasks.packaging.commits import Commit, Level, Log
from tasks.project import ROOT

_NUMBER = r"(0|[1-9][0-9]*)"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}")


def is_version(text: str) -> bool:
    """Whether `text` is a final version: MAJOR.MINOR.PATCH without a suffix."""
    return _VERSION.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Release:
    """The release that HEAD is or would be.

    Args:
        last: the previous version; None for the first release.
        log: the commits since then.
        version: the version that they ask for; None if they ask for none.
        tagged: the version that HEAD is tagged with, or None.
    """

    last: str | None
    log: Log
    version: str | None
    tagged: str | None

    @property
    def revisions(self) -> str:
        """The commits since the last version, as a git revision range."""
        return f"v{self.last}..HEAD" if self.last else "HEAD"


def of_head(declared: str, root: Path = ROOT) -> Release:
    """Return the release that HEAD is or would be.

    Args:
        declared: the version in pyproject.toml, which the first release takes.
        root: the repository.
    """
    here = _tags("--points-at", root)
    last = next((version for version in _tags("--merged", root) if version not in here), None)
    log = commits.read(f"v{last}" if last else None, root)
    version: str | None = declared
    if last is not None:
        version = log.next_version(last) if log.level else None
    return Release(last=last, log=log, version=version, tagged=next(iter(here), None))


def _tags(which: str, root: Path) -> list[str]:
    """Return the tagged versions, highest first."""
    tags = ("tag", "--list", "v*", "--sort=-version:refname", which, "HEAD")
    listed = (git.output(*tags, cwd=root) or "").split()
    return [tag[1:] for tag in listed if is_version(tag[1:])]


def account(release: Release) -> list[str]:
    """Return the next version and why: one line per commit, then the decision."""
    lines = [f"{_level(commit):6} {commit}" for commit in release.log.commits]
    since = f"v{release.last}" if release.last else "the beginning"
    return [f"commits since {since}: {len(lines)}", *lines, _decision(release)]


def _level(commit: Commit) -> str:
    return "?" if commit.group is None else commit.level.name.lower()


def _decision(release: Release) -> str:
    if release.tagged is not None:
        version = release.version or "none"
        return f"HEAD is v{release.tagged}; its commits ask for {version}"
    if release.last is None:
        return f"next: {release.version}, the first release: no earlier tag vMAJOR.MINOR.PATCH"
    if release.version is None:
        return f"next: none, because no commit since v{release.last} is a feat, fix, perf or revert"
    # The oldest commit with the highest level was the first to require this version.
    level = release.log.level
    cause = [commit for commit in release.log.commits if commit.level == level][-1]
    effects = {Level.MAJOR: "is a breaking change", Level.MINOR: "adds a feature"}
    is_early = level == Level.MAJOR and release.last.startswith("0.")
    early = ", which increases the minor number before 1.0.0" if is_early else ""
    return (
        f"next: {release.last} -> {release.version}, because {cause.digest[:8]} "
        f"{effects.get(level, 'is a fix')}{early}"
    )


def problems(release: Release, declared: str) -> list[str]:
    """Return the problems with HEAD's tag; empty if it has no tag."""
    if release.tagged is None:
        return []
    found: list[str] = []
    if release.tagged != declared:
        found.append(f"tagged v{release.tagged}, but pyproject.toml has {declared}")
    if release.last and release.version and _numbers(release.tagged) < _numbers(release.version):
        found.append(f"tagged v{release.tagged}, but its commits ask for {release.version}")
    return found


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]

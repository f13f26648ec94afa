"""The next version of the package, from the commits since the last one.

https://semver.org/spec/v2.0.0.html
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tasks import commits, git
from tasks.commits import Commit, Message, MessageError
from tasks.project import ROOT

_NUMBER = r"(0|[1-9]\d*)"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}", re.ASCII)


class Level(IntEnum):
    """How much a change asks of those who use the package; the largest one decides."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


_LEVELS = {
    "feat": Level.MINOR,
    "fix": Level.PATCH,
    "perf": Level.PATCH,
    "revert": Level.PATCH,
}


@dataclass(frozen=True, order=True)
class Version:
    """A version in the form MAJOR.MINOR.PATCH."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def after(self, level: Level) -> "Version":
        """Return the next version after a change of `level`.

        Before 1.0.0 what breaks something raises the minor number: that somebody relies on
        the package, so that it is 1.0.0, is for people to say.
        """
        if level == Level.MAJOR and self.major > 0:
            return Version(self.major + 1, 0, 0)
        if level >= Level.MINOR:
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + level)


def read(text: str) -> Version | None:
    """Return the version that `text` is; None if it is none, or one that is not final."""
    found = _VERSION.fullmatch(text)
    return Version(*map(int, found.groups())) if found else None


def level_of(message: Message) -> Level:
    """Return what a change asks of those who use the package."""
    return Level.MAJOR if message.is_breaking else _LEVELS.get(message.type, Level.NONE)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A commit and what it asks for; `message` is None where it is not in the form."""

    commit: Commit
    message: Message | None
    level: Level


@dataclass(frozen=True, kw_only=True)
class Release:
    """What HEAD is or would be released as.

    Args:
        last: the version before it; None for the first one.
        steps: the commits since then, newest first.
        version: the version that they ask for; None if they ask for none.
        tagged: the version that HEAD is tagged with, if it is.
    """

    last: Version | None
    steps: Sequence[Step]
    version: Version | None
    tagged: Version | None


def of_head(declared: Version, root: Path = ROOT) -> Release:
    """Return what HEAD is or would be released as.

    Args:
        declared: the version in pyproject.toml, which is that of the first release.
        root: the repository.
    """
    here = _tags("--points-at", root)
    earlier = [version for version in _tags("--merged", root) if version not in here]
    last = max(earlier, default=None)
    range_ = "HEAD" if last is None else f"v{last}..HEAD"
    steps = [_step(commit) for commit in commits.read(range_, root)]
    level = max((step.level for step in steps), default=Level.NONE)
    if last is None:
        version: Version | None = declared
    else:
        version = last.after(level) if level else None
    return Release(last=last, steps=steps, version=version, tagged=max(here, default=None))


def _tags(which: str, root: Path) -> list[Version]:
    listed = git.output("tag", "--list", "v*", which, "HEAD", cwd=root) or ""
    found = (read(tag.removeprefix("v")) for tag in listed.split())
    return [version for version in found if version is not None]


def _step(commit: Commit) -> Step:
    try:
        message = commits.parse(commit.text)
    except MessageError:
        return Step(commit=commit, message=None, level=Level.NONE)
    return Step(commit=commit, message=message, level=level_of(message))


def account(release: Release) -> list[str]:
    """Return the next version and why, a line for each commit and a last one that decides."""
    lines = [f"{_asked(step):6} {step.commit}" for step in release.steps]
    since = f"v{release.last}" if release.last else "the beginning"
    return [f"commits since {since}: {len(release.steps)}", *lines, _decision(release)]


def _asked(step: Step) -> str:
    return "?" if step.message is None else step.level.name.lower()


def _decision(release: Release) -> str:
    if release.tagged is not None:
        asked = release.version or "none"
        return f"HEAD is v{release.tagged}; its commits ask for {asked}"
    if release.last is None:
        return f"next: {release.version}, the first release: no tag vMAJOR.MINOR.PATCH before it"
    if release.version is None:
        return f"next: none, as no commit since v{release.last} is a feat, fix, perf or revert"
    # The oldest of those that ask for most: it was the first to make this version necessary.
    level = max(step.level for step in release.steps)
    cause = [step for step in release.steps if step.level == level][-1]
    what = {Level.MAJOR: "breaks something", Level.MINOR: "adds a feature"}
    zero = ", which raises the minor number before 1.0.0" * (
        level == Level.MAJOR and release.last.major == 0
    )
    return (
        f"next: {release.last} -> {release.version}, because {cause.commit.digest[:8]} "
        f"{what.get(level, 'mends something')}{zero}"
    )


def problems(release: Release, declared: Version) -> list[str]:
    """Return in what the tag of HEAD is wrong; nothing if HEAD has none."""
    if release.tagged is None:
        return []
    found: list[str] = []
    if release.tagged != declared:
        found.append(f"tagged v{release.tagged}, and pyproject.toml says {declared}")
    if release.last and release.version and release.tagged < release.version:
        found.append(f"tagged v{release.tagged}, and its commits ask for {release.version}")
    return found

"""Conventional Commits messages, as git-cliff parses them.

python3 -m tasks.packaging.commits FILE     checks the message in FILE, like the commit-msg hook

https://www.conventionalcommits.org/en/v1.0.0/; the types are in configs/git-cliff.toml.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tasks import git
from tasks.display import show
from tasks.environments import environment
from tasks.packaging import contracts
from tasks.project import ROOT

CONFIG = "configs/git-cliff.toml"
# The groups in CONFIG. A breaking change of any type is "Changed".
_ADDED, _CHANGED, _FIXED, _UNLISTED = "Added", "Changed", "Fixed", "Unlisted"
# `git commit --fixup` adds these for `git rebase --autosquash`, which removes them again.
_TO_BE_SQUASHED = ("fixup! ", "squash! ", "amend! ")
_SCISSORS = re.compile(r"^# -+ >8 -+$", re.MULTILINE)
_FORM = (
    "TYPE: WHAT or TYPE(SCOPE)!: WHAT, then an empty line; for example: fix(data): keep empty rows"
)
# git-cliff also accepts a header without the space.
_HEADER = re.compile(r"[^:]+: \S")
_MEANT_AS_BREAKING = re.compile(r"^breaking[ -]changes?[ \t]*:.*", re.MULTILINE | re.IGNORECASE)
_BREAKING_FOOTER = re.compile(r"BREAKING[ -]CHANGE:(?: \S.*)?")


class Level(IntEnum):
    """The part of the version number that a change increases; the largest one decides."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


_LEVELS = {_ADDED: Level.MINOR, _CHANGED: Level.PATCH, _FIXED: Level.PATCH}


@dataclass(frozen=True)
class Commit:
    """A commit as git-cliff parses it.

    Args:
        context: its entry in the output of `git-cliff --context`.
    """

    context: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The commit's SHA-1."""
        return str(self.context["id"])

    @property
    def text(self) -> str:
        """The message; for a revert, git-cliff.toml rewrites it."""
        return str(self.context["raw_message"])

    @property
    def header(self) -> str:
        """The first line of the message."""
        return self.text.partition("\n")[0]

    @property
    def is_breaking(self) -> bool:
        """Whether users must change something before they upgrade."""
        return bool(self.context.get("breaking"))

    @property
    def group(self) -> str | None:
        """Its heading in the changelog; None if the message is not a Conventional Commit."""
        if not self.context["conventional"]:
            return None
        return _CHANGED if self.is_breaking else str(self.context["group"])

    @property
    def level(self) -> Level:
        """The part of the version number that this commit increases."""
        return Level.MAJOR if self.is_breaking else _LEVELS.get(self.group or "", Level.NONE)

    def __str__(self) -> str:
        return f"{self.digest[:8]} {self.header}"


@dataclass(frozen=True)
class Log:
    """Commits, with the data that git-cliff needs to print a version or notes for them.

    Args:
        commits: newest first, without merges.
        release: the fields of the release in which git-cliff found the commits.
    """

    commits: Sequence[Commit]
    release: Mapping[str, Any]

    @property
    def level(self) -> Level:
        """The part of the version number that the commits together increase."""
        return max((commit.level for commit in self.commits), default=Level.NONE)

    def next_version(self, last: str) -> str:
        """Return the version that follows `last` after these commits."""
        # For a breaking change in 0.0.x, git-cliff would increase only the patch number.
        is_first_break = last.startswith("0.0.") and self.level == Level.MAJOR
        bump = ["--bump=minor"] if is_first_break else []
        printed = self._print("--bumped-version", *bump, last=last, commits=self.commits)
        return printed.strip().removeprefix("v")

    def notes(self, commits: Iterable[Commit]) -> str:
        """Return the changelog's lines for the `commits` that need a new version."""
        return self._print(last=None, commits=commits).strip()

    def _print(self, *arguments: str, last: str | None, commits: Iterable[Commit]) -> str:
        empty = {**self.release, "version": last and f"v{last}", "commits": [], "previous": None}
        listed = [{**each.context, "group": each.group} for each in commits if each.level]
        context = [{**empty, "version": None, "commits": listed[::-1], "previous": empty}]
        return _git_cliff(*arguments, "--from-context=-", cwd=ROOT, text=json.dumps(context))


def _git_cliff(*arguments: str, cwd: Path, text: str = "") -> str:
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    config = f"--config={ROOT / CONFIG}"
    return environment.output(
        tools, "git-cliff", config, "--offline", *arguments, cwd=cwd, text=text
    )


def read(since: str | None, root: Path = ROOT) -> Log:
    """Return the commits in HEAD's history but not in the history of `since`; None for all."""
    revisions = [f"{since}..HEAD"] if since else []
    return _log(_git_cliff("--context", "--sort=newest", *revisions, cwd=root))


def parse(text: str, root: Path = ROOT) -> Commit:
    """Return the commit that a message would create in the repository `root`.

    The repository must have at least one commit.
    """
    log = _log(_git_cliff("--context", f"--with-commit={text.strip()}", "HEAD..HEAD", cwd=root))
    return log.commits[0]


def _log(printed: str) -> Log:
    releases = json.loads(printed)
    commits = [Commit(each) for release in releases for each in release["commits"]]
    kept = [commit for commit in commits if not commit.context["merge_commit"]]
    return Log(commits=kept, release=releases[0] if releases else {})


def is_shallow(root: Path = ROOT) -> bool:
    """Whether the repository has only the newest part of its history."""
    return (git.output("rev-parse", "--is-shallow-repository", cwd=root) or "").strip() == "true"


def base(root: Path = ROOT, target: str | None = None) -> str:
    """Return the commit after which HEAD's commits are new.

    This is where HEAD left the branch that it will be merged into. On that branch itself, or if
    there is none, it is the commit before HEAD. A repository's first commit is not checked, since
    GitHub or a template created it.

    Args:
        root: the repository.
        target: the name of that branch, which GitHub provides for a pull request.
    """
    remote = [f"refs/remotes/origin/{target}"] if target else []
    likely = ["refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master"]
    for branch in (*remote, *likely, "refs/heads/main", "refs/heads/master"):
        left = git.output("merge-base", branch, "HEAD", cwd=root)
        if left is not None and left.strip() != _digest("HEAD", root):
            return left.strip()
    return _digest("HEAD~1", root) or _digest("HEAD", root) or "HEAD"


def _digest(revision: str, root: Path) -> str | None:
    found = git.output("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", cwd=root)
    return found.strip() if found else None


def problems(commit: Commit, root: Path = ROOT) -> list[str]:
    """Return the problems with a commit's message."""
    if commit.text.startswith(_TO_BE_SQUASHED):
        return [f"{commit}: squash it into its commit: git rebase --interactive --autosquash"]
    found = _problems(commit, f"{commit.digest}~1", commit.digest, root)
    return [f"{commit.digest[:8]}: {each}" for each in found]


def problems_of_new(text: str, root: Path = ROOT) -> list[str]:
    """Return the problems with the message of the commit being created."""
    merging = _digest("MERGE_HEAD", root) is not None
    if merging or text.startswith(_TO_BE_SQUASHED) or _digest("HEAD", root) is None:
        return []
    return _problems(parse(text, root), "HEAD", contracts.INDEX, root)


def problems_of_title(title: str, since: str, root: Path = ROOT) -> list[str]:
    """Return the problems with a pull request's title, which becomes the message of a squash.

    It must ask for at least the level of the commits after `since`, or a squash would hide a
    breaking change or a feature.
    """
    squashed = parse(title, root)
    found = _problems(squashed, since, "HEAD", root)
    commits = read(since, root).commits
    hidden = [each for each in commits if each.level > max(squashed.level, Level.PATCH)]
    if squashed.level < Level.MAJOR and not found and hidden:
        largest = max(hidden, key=lambda each: each.level)
        mark = "a breaking change: add ! before the colon" * largest.is_breaking
        what = mark or "a feature: write feat: …"
        found.append(f"{squashed.header!r} hides {largest}, {what}")
    return found


def _problems(commit: Commit, before: str, after: str, root: Path) -> list[str]:
    """Return the problems with a message that describes all changes between two revisions."""
    header = commit.header
    if commit.group is None or not _HEADER.match(header):
        return [f"{header!r} is not of the form {_FORM}"]
    if commit.context["group"] not in {*_LEVELS, _UNLISTED}:
        kind = re.split(r"[(!:]", header)[0]
        return [f"{header!r}: unknown type {kind}; the types are in {CONFIG}"]
    for line in _MEANT_AS_BREAKING.findall(commit.text):
        if not _BREAKING_FOOTER.fullmatch(line) or not commit.is_breaking:
            form = "an empty line, then BREAKING CHANGE: (in capitals) and what changes"
            return [f"{header!r}: {line!r} does not count as a breaking change; write {form}"]
    if commit.is_breaking:
        return []
    marked = header.replace(":", "!:", 1)
    broken = contracts.broken(before, after, root)
    return [f"{each}; mark the commit as breaking: {marked}" for each in broken]


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Check the message in a file; print one line per problem, and return 1 if there is any."""
    try:
        written = Path(arguments[0]).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        print("commit message: is not UTF-8; write it in UTF-8, which git assumes for messages")
        return 1
    cleaned = subprocess.run(
        ["git", "stripspace", "--strip-comments"],  # noqa: S607 - the one on PATH
        input=_SCISSORS.split(written)[0],
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=True,
    ).stdout
    # git itself refuses an empty message.
    found = problems_of_new(cleaned, root) if cleaned.strip() else []
    show(*(f"commit message: {problem}" for problem in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

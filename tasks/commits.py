"""Commit messages in the form of Conventional Commits, and the commits that must have it.

python3 -m tasks.commits FILE     checks the message in FILE, as the hook commit-msg does

https://www.conventionalcommits.org/en/v1.0.0/
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks import contracts, git
from tasks.project import ROOT

TYPES = (
    "build",
    "chore",
    "ci",
    "docs",
    "feat",
    "fix",
    "perf",
    "refactor",
    "revert",
    "style",
    "test",
)

_HEADER = re.compile(
    r"(?P<type>[A-Za-z]+)(?:\((?P<scope>[^()\n]*)\))?(?P<bang>!?): (?P<description>\S.*)"
)
_BREAKING_FOOTER = re.compile(r"^BREAKING[ -]CHANGE: \S", re.MULTILINE)
_OF_GIT_REVERT = re.compile(r'Revert "(?P<description>.+)"')
# `git commit --fixup` makes these for `git rebase --autosquash`, which takes them away again.
_TO_BE_SQUASHED = ("fixup! ", "squash! ", "amend! ")
_SCISSORS = re.compile(r"^# -+ >8 -+$", re.MULTILINE)
_FORM = "TYPE: WHAT or TYPE(SCOPE)!: WHAT, as in: fix(data): keep rows of width 0"


class MessageError(Exception):
    """A commit message is not in the form, and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a commit message says of its change.

    Args:
        type: the kind of change, one of `TYPES`.
        scope: the part that changed; None where the message names none.
        description: the change in a few words.
        is_breaking: whether somebody must change something to go on.
    """

    type: str
    scope: str | None
    description: str
    is_breaking: bool


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit and its message, as git has them."""

    digest: str
    text: str

    @property
    def header(self) -> str:
        """The first line of the message."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.digest[:8]} {self.header}"


def parse(text: str) -> Message:
    """Return what a message says.

    Raises:
        MessageError: it is not in the form.
    """
    header, _, rest = text.strip().partition("\n")
    reverted = _OF_GIT_REVERT.fullmatch(header)
    if reverted:
        return Message(
            type="revert", scope=None, description=reverted["description"], is_breaking=False
        )
    found = _HEADER.fullmatch(header)
    if found is None:
        msg = f"{header!r} is not of the form {_FORM}"
        raise MessageError(msg)
    if found["type"] not in TYPES:
        msg = f"{header!r}: {found['type']} is none of {', '.join(TYPES)}"
        raise MessageError(msg)
    if found["scope"] is not None and not found["scope"].strip():
        msg = f"{header!r}: the scope is empty; name one or leave out the brackets"
        raise MessageError(msg)
    if rest and not rest.startswith("\n"):
        msg = f"{header!r}: leave the second line empty"
        raise MessageError(msg)
    return Message(
        type=found["type"],
        scope=found["scope"],
        description=found["description"].strip(),
        is_breaking=bool(found["bang"]) or _BREAKING_FOOTER.search(rest) is not None,
    )


def read(revisions: str, root: Path = ROOT) -> list[Commit]:
    """Return the commits of `revisions`, such as `v0.1.0..HEAD`, newest first, no merges."""
    log = git.output("log", "-z", "--no-merges", "--format=%H%n%B", revisions, "--", cwd=root)
    entries = [entry.partition("\n") for entry in (log or "").split("\0") if entry.strip()]
    return [Commit(digest=digest, text=text.strip()) for digest, _, text in entries]


def is_shallow(root: Path = ROOT) -> bool:
    """Whether the repository holds only the newest part of its history."""
    return (git.output("rev-parse", "--is-shallow-repository", cwd=root) or "").strip() == "true"


def base(root: Path = ROOT, target: str | None = None) -> str:
    """Return the commit since which HEAD's commits are new.

    That is where HEAD left the branch it goes to. On that branch itself, and where there is
    none to be found, it is the commit before the last one. A first commit is nobody's: GitHub
    or a template makes it.

    Args:
        root: the repository.
        target: the name of that branch, as GitHub gives it for a pull request.
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
    """Return what is wrong with a commit's message, and with what it keeps silent about."""
    if commit.text.startswith(_TO_BE_SQUASHED):
        return [f"{commit}: squash it into its commit: git rebase --interactive --autosquash"]
    found = problems_of(commit.text, f"{commit.digest}~1", commit.digest, root)
    return [f"{commit.digest[:8]}: {each}" for each in found]


def problems_of_new(text: str, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the message of the commit that is being made."""
    merging = git.output("rev-parse", "--verify", "--quiet", "MERGE_HEAD", cwd=root) is not None
    if merging or text.startswith(_TO_BE_SQUASHED):
        return []
    return problems_of(text, "HEAD", contracts.INDEX, root)


def problems_of(text: str, before: str, after: str, root: Path) -> list[str]:
    """Return what is wrong with a message for all that changed between two revisions."""
    try:
        message = parse(text)
    except MessageError as error:
        return [str(error)]
    if message.is_breaking:
        return []
    scope = f"({message.scope})" if message.scope else ""
    loud = f"{message.type}{scope}!: {message.description}"
    broken = contracts.broken(before, after, root)
    return [f"{each}; say that it breaks something: {loud}" for each in broken]


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Check the message in a file; print a line and return 1 for what is wrong with it."""
    written = Path(arguments[0]).read_text(encoding="utf-8")
    cleaned = subprocess.run(
        ["git", "stripspace", "--strip-comments"],  # noqa: S607 - the one on PATH
        input=_SCISSORS.split(written)[0],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = problems_of_new(cleaned, root) if cleaned.strip() else []  # git refuses an empty one
    for problem in found:
        print(f"commit message: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""CHANGELOG.md: a release takes the text written by hand, and lines for what has none.

https://keepachangelog.com/en/1.1.0/
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks import git
from tasks.project import ROOT
from tasks.versions import Level, Step, Version

_UNRELEASED = re.compile(r"^## \[?Unreleased\]?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_NEXT_SECTION = re.compile(r"^(?:## |\[[^\]]+\]: )", re.MULTILINE)
_HEADING = re.compile(r"^### (.+?)[ \t]*$", re.MULTILINE)

# The order that Keep a Changelog names them in.
_KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
_KIND_OF_TYPE = {"feat": "Added", "fix": "Fixed"}


class ChangelogError(Exception):
    """CHANGELOG.md has no place for a release."""


def lines(steps: Iterable[Step]) -> dict[str, list[str]]:
    """Return the lines for `steps`, by heading, oldest first; nothing for what nobody notices."""
    found: dict[str, list[str]] = {}
    for step in reversed([*steps]):
        if step.message is None or step.level == Level.NONE:
            continue
        message = step.message
        kind = "Changed" if message.is_breaking else _KIND_OF_TYPE.get(message.type, "Changed")
        scope = f"{message.scope}: " if message.scope else ""
        breaking = "**Breaking:** " if message.is_breaking else ""
        reverted = "Reverted: " if message.type == "revert" else ""
        text = f"- {breaking}{reverted}{scope}{_capitalised(message.description)}"
        found.setdefault(kind, []).append(f"{text} ({step.commit.digest[:8]})")
    return found


def untold(steps: Iterable[Step], root: Path = ROOT) -> list[Step]:
    """Return the steps that did not change CHANGELOG.md: nobody has written of them."""
    return [step for step in steps if not _changes(step.commit.digest, root)]


def _changes(commit: str, root: Path) -> bool:
    show = ("show", "--format=", "--name-only", "--no-renames", commit, "--", "CHANGELOG.md")
    return bool((git.output(*show, cwd=root) or "").strip())


def section(text: str, version: Version) -> str | None:
    """Return what CHANGELOG.md says of a version, without its heading; None if it has none."""
    heading = re.compile(rf"^## \[?{re.escape(str(version))}\]?(?: .*)?$", re.MULTILINE)
    found = heading.search(text)
    return None if found is None else _body(text, found.end()).strip()


def release(text: str, version: Version, date: str, more: Mapping[str, Sequence[str]]) -> str:
    """Return CHANGELOG.md with the unreleased text under `version`, and `more` lines added.

    Not a line of what was written is changed or lost. With a section of that version there
    is nothing to do.

    Raises:
        ChangelogError: there is no heading `## [Unreleased]`.
    """
    if section(text, version) is not None:
        return text
    heading = _UNRELEASED.search(text)
    if heading is None:
        msg = "CHANGELOG.md: no heading `## [Unreleased]`; add it above the newest version"
        raise ChangelogError(msg)
    body = _body(text, heading.end())
    merged = _merge(body, more).strip("\n")
    rest = text[heading.end() + len(body) :]
    told = f"\n\n{merged}" if merged else ""
    new = f"{text[: heading.end()]}\n\n## [{version}] - {date}{told}\n"
    return f"{new}\n{rest}" if rest else new


def has_unreleased_text(text: str) -> bool:
    """Whether somebody has written of what is not yet released."""
    heading = _UNRELEASED.search(text)
    return heading is not None and bool(_body(text, heading.end()).strip())


def notes(name: str, version: Version, commit: str, model: str | None, told: str) -> str:
    """Return the notes of a release: which model goes with it, and what CHANGELOG.md says."""
    which = f"`{model}`" if model else "none was trained"
    table = f"| package | commit | model |\n|---|---|---|\n| {version} | `{commit[:8]}` | {which} |"
    return f"# {name} {version}\n\n{table}\n\n{told.replace('### ', '## ')}\n"


def _body(text: str, start: int) -> str:
    following = _NEXT_SECTION.search(text, start)
    return text[start : following.start() if following else len(text)]


def _merge(body: str, more: Mapping[str, Sequence[str]]) -> str:
    """Return `body` with lines added at the end of their headings' text."""
    blocks = _blocks(body)
    for kind, added in more.items():
        index = next((i for i, (name, _) in enumerate(blocks) if name == kind), None)
        if index is None:
            rank = _KINDS.index(kind)
            later = (i for i, (name, _) in enumerate(blocks) if _rank(name) > rank)
            index = next(later, len(blocks))
            blocks.insert(index, (kind, f"### {kind}\n\n"))
        name, block = blocks[index]
        written = block.rstrip("\n")
        gap = "\n" if written != f"### {name}" else block[len(written) :] or "\n"
        blocks[index] = (name, "\n".join([written + gap + added[0], *added[1:], "", ""]))
    return "".join(block if block.endswith("\n\n") else f"{block}\n" for _, block in blocks)


def _blocks(body: str) -> list[tuple[str, str]]:
    """Return the parts of a section with their headings; what stands before the first has ""."""
    starts = [(found[1], found.start()) for found in _HEADING.finditer(body)]
    ends = [start for _, start in starts[1:]] + [len(body)]
    first = body[: starts[0][1]] if starts else body
    before = [("", first)] if first.strip() else []
    return [
        *before,
        *((name, body[start:end]) for (name, start), end in zip(starts, ends, strict=True)),
    ]


def _rank(kind: str) -> int:
    """Return where a heading stands; one of the project's own after those that are known."""
    if not kind:
        return -1
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]

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
_NEXT_HEADING = re.compile(r"^(?=### )", re.MULTILINE)
_HEADING = re.compile(r"### (.+?)[ \t]*$", re.MULTILINE)

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
    merged = _merge(body, more)
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
    blocks = [block.strip("\n") for block in _NEXT_HEADING.split(body) if block.strip()]
    for kind, added in more.items():
        text = "\n".join(added)
        names = [_name(block) for block in blocks]
        if kind in names:
            block = blocks[names.index(kind)]
            gap = "\n" if "\n" in block else "\n\n"
            blocks[names.index(kind)] = f"{block}{gap}{text}"
        else:
            before = [name for name in names if _rank(name) < _rank(kind)]
            index = len(names) - names[::-1].index(before[-1]) if before else 0
            blocks.insert(index, f"### {kind}\n\n{text}")
    return "\n\n".join(blocks)


def _name(block: str) -> str:
    """Return the heading of a part of a section; "" for what stands before the first."""
    found = _HEADING.match(block)
    return found[1] if found else ""


def _rank(kind: str) -> int:
    """Return where a heading stands; one of the project's own after those that are known."""
    if not kind:
        return -1
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]

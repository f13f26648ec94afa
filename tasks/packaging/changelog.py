"""Updates CHANGELOG.md for a release: keeps handwritten text and adds lines for other commits.

https://keepachangelog.com/en/1.1.0/
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tasks import git
from tasks.packaging.versions import Release
from tasks.project import ROOT

_UNRELEASED = re.compile(r"^## \[?Unreleased\]?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_NEXT_SECTION = re.compile(r"^(?:## |\[[^\]]+\]: )", re.MULTILINE)
_NEXT_HEADING = re.compile(r"^(?=### )", re.MULTILINE)

# In the order of Keep a Changelog.
_HEADINGS = [
    f"### {kind}" for kind in ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
]


class ChangelogError(Exception):
    """CHANGELOG.md has no place for a release."""


def missing(release: Release, root: Path = ROOT) -> str:
    """Return lines, under their headings, for the commits that did not change CHANGELOG.md."""
    log = ("log", "--format=%H", "--full-history", release.revisions, "--", "CHANGELOG.md")
    described = (git.output(*log, cwd=root) or "").split()
    commits = [commit for commit in release.log.commits if commit.digest not in described]
    return release.log.notes(commits) if commits else ""


def section(text: str, version: str) -> str | None:
    """Return a version's section in CHANGELOG.md, without its heading; None if it has none."""
    heading = re.compile(rf"^## \[?{re.escape(version)}\]?(?: .*)?$", re.MULTILINE)
    found = heading.search(text)
    return None if found is None else _body(text, found.end()).strip()


def release(text: str, version: str, date: str, more: str) -> str:
    """Return CHANGELOG.md with the unreleased text and the lines in `more` under `version`.

    No existing line is changed or lost. If the version already has a section, nothing changes.

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
    described = f"\n\n{merged}" if merged else ""
    new = f"{text[: heading.end()]}\n\n## [{version}] - {date}{described}\n"
    return f"{new}\n{rest}" if rest else new


def has_unreleased_text(text: str) -> bool:
    """Whether CHANGELOG.md has text under `## [Unreleased]`."""
    heading = _UNRELEASED.search(text)
    return heading is not None and bool(_body(text, heading.end()).strip())


def notes(version: str, commit: str, models: Mapping[str, str | None], described: str) -> str:
    """Return a release's notes: its commit, its models, and its section of CHANGELOG.md.

    Args:
        version: the packages' version.
        commit: the commit that they are built from.
        models: the version of each project's model, by name; None if none was trained.
        described: the section of CHANGELOG.md.
    """
    rows = [f"| {name} | {f'`{model}`' if model else 'none'} |" for name, model in models.items()]
    table = "\n".join(["| model | version |", "|---|---|", *rows])
    return f"# {version}\n\nCommit `{commit}`\n\n{table}\n\n{described.replace('### ', '## ')}\n"


def _body(text: str, start: int) -> str:
    following = _NEXT_SECTION.search(text, start)
    return text[start : following.start() if following else len(text)]


def _merge(body: str, more: str) -> str:
    """Return `body` with the lines of `more` appended under their headings."""
    blocks = _blocks(body)
    for added in _blocks(more):
        heading, _, lines = added.partition("\n")
        headings = [block.partition("\n")[0].rstrip() for block in blocks]
        if heading in headings:
            index = headings.index(heading)
            gap = "\n" if "\n" in blocks[index] else "\n\n"
            blocks[index] += gap + lines.strip()
        else:
            later = [i for i, other in enumerate(headings) if _rank(other) > _rank(heading)]
            blocks.insert(later[0] if later else len(blocks), added)
    return "\n\n".join(blocks)


def _blocks(text: str) -> list[str]:
    return [block.strip("\n") for block in _NEXT_HEADING.split(text) if block.strip()]


def _rank(heading: str) -> int:
    """Return a heading's position: text without a heading first, unknown headings last."""
    if heading in _HEADINGS:
        return _HEADINGS.index(heading)
    return len(_HEADINGS) if heading.startswith("### ") else -1

"""Shows text that may come from anybody: subgroups, ids, class names, provenance, addresses.

Whoever chooses such a text must not steer the terminal or the CI runner that shows it.
"""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

# GitHub's runner takes `::` at the start of a line and `##[` anywhere in it for a command.
# https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
_MARK, _OLD_MARK = "::", "##["


def harmless(text: str) -> str:
    """Return `text` as one line in which nothing acts: escapes are spelled out, spaces are kept."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    ).replace(_OLD_MARK, r"#\x23[")
    start = len(shown) - len(shown.lstrip())
    return (
        shown[:start] + r"\x3a" + shown[start + 1 :] if shown[start:].startswith(_MARK) else shown
    )


def in_one_line(text: str) -> str:
    """Return `text` as `harmless` does, each run of white space as one space."""
    return harmless(" ".join(text.split()))


def show(*lines: str) -> None:
    """Print each of `lines`, made harmless; what the terminal has no letters for is spelled out."""
    _print(lines, sys.stdout)


def show_error(*lines: str) -> None:
    """Print each of `lines` to standard error, as `show` does."""
    _print(lines, sys.stderr)


def _print(lines: Iterable[str], stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"  # None where it is closed
    for line in lines:
        text = harmless(line).encode(encoding, "backslashreplace").decode(encoding)
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            # `… | head` has read enough. The command must finish, and its exit code stays its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

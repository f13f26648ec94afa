"""Prints untrusted text safely: subgroups, ids, class names, provenance, addresses.

Such text must not be able to control the terminal or the CI runner that displays it.
"""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

# GitHub's runner reads `::` at the start of a line, and `##[` anywhere in it, as a command.
# https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
_MARK, _OLD_MARK = "::", "##["


def harmless(text: str) -> str:
    """Return `text` as one line without control characters or commands; spaces are kept."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    ).replace(_OLD_MARK, r"#\x23[")
    start = len(shown) - len(shown.lstrip())
    return (
        shown[:start] + r"\x3a" + shown[start + 1 :] if shown[start:].startswith(_MARK) else shown
    )


def in_one_line(text: str) -> str:
    """Return `text` as `harmless` does, with each run of white space as one space."""
    return harmless(" ".join(text.split()))


def show(*lines: str) -> None:
    """Print `lines`, made harmless; escape characters that the terminal cannot encode."""
    _print(lines, sys.stdout)


def show_error(*lines: str) -> None:
    """Print `lines` to standard error, as `show` does."""
    _print(lines, sys.stderr)


def _print(lines: Iterable[str], stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"  # None if it is closed
    for line in lines:
        text = harmless(line).encode(encoding, "backslashreplace").decode(encoding)
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            # The reader, such as `head`, closed the pipe. The command must still finish, and its
            # exit code must not change.
            discard(stream)


def discard(stream: TextIO) -> None:
    """Drop all further output to `stream`, so that Python does not fail on it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Prints untrusted text: commit messages, titles, names in files of a fork."""

import sys

# GitHub's runner treats `::` at the start of a line and `##[` anywhere in it as a command.
# https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
_MARK, _OLD_MARK = "::", "##["


def harmless(text: str) -> str:
    """Return `text` as one line, with control sequences for terminals and runners escaped."""
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    ).replace(_OLD_MARK, r"#\x23[")
    start = len(shown) - len(shown.lstrip())
    return (
        shown[:start] + r"\x3a" + shown[start + 1 :] if shown[start:].startswith(_MARK) else shown
    )


def show(*lines: str) -> None:
    """Print `lines`, with control sequences and characters that stdout cannot encode escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(harmless(line).encode(encoding, "backslashreplace").decode(encoding))

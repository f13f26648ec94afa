"""Parses a session's own options, which follow `--`."""

import argparse
from typing import NoReturn

from tasks.errors import abort


class Options(argparse.ArgumentParser):
    """A parser that reports a mistake in one line and exits with code 2.

    Args:
        session: the name of the session.
    """

    def __init__(self, session: str) -> None:
        super().__init__(
            prog=f"nox -s {session} --", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Abort with `message` and a hint at the session's help."""
        session = self.prog.split()[2]
        abort(f"{session}: {message}; for the options, run: nox --usage {session}")

"""What stands after `--`, where a session has options of its own."""

import argparse
from typing import NoReturn

from tasks.errors import stop


class Options(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, with exit code 2.

    Args:
        session: the name of the session.
    """

    def __init__(self, session: str) -> None:
        super().__init__(
            prog=f"nox -s {session} --", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """End everything with `message`."""
        session = self.prog.split()[2]
        stop(f"{session}: {message}; what there is: nox --usage {session}")

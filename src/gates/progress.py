"""Shows on a terminal what a command is waiting for."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show `what` on standard error while the block runs, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - scripts don't need it
    from rich.markup import escape  # noqa: PLC0415

    with Console(stderr=True).status(escape(f"{what} …")):
        yield

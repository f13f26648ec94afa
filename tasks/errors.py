"""The only way to end a session that cannot give a verdict."""

import sys
from typing import NoReturn

from tasks.display import harmless


def abort(message: str) -> NoReturn:
    """Print `message` and exit with code 2, which means that there is no verdict."""
    print(harmless(message), file=sys.stderr, flush=True)
    ended = SystemExit(2)
    ended.add_note(message)  # for the session's manifest
    raise ended

"""The one way in which a session ends when nothing could be judged."""

import sys
from typing import NoReturn

from tasks.display import harmless


def stop(message: str) -> NoReturn:
    """End everything with `message`: nothing could be judged, so the exit code is 2."""
    print(harmless(message), file=sys.stderr, flush=True)
    ended = SystemExit(2)
    ended.add_note(message)  # for the session's manifest
    raise ended

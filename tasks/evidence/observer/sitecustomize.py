"""Notes the repository's files that this Python process opens for reading.

Python imports a module of this name at its start, before any other code, if it finds one; this
folder is on PYTHONPATH only where a run is watched. It is read by whatever Python a session starts.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

LOG = "OPENED_FILES_LOG"
FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is not imported at every start
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(FOLDER))) + os.sep  # noqa: PTH120 - as above

_seen: set[str] = set()
_log: str | None = None
_is_installed = False


def start(log: str) -> None:
    """Note into the folder `log` from now on."""
    global _log, _is_installed  # noqa: PLW0603 - an audit hook cannot be taken out again
    _seen.clear()
    _log = log
    if not _is_installed:
        sys.addaudithook(_note)
        _is_installed = True


def stop() -> None:
    """Note nothing more."""
    global _log  # noqa: PLW0603 - as in `start`
    _log = None


def _note(event: str, arguments: Sequence[Any]) -> None:
    if event != "open" or _log is None:
        return
    # An error in here would become one of the program that opens the file.
    try:
        path, _, flags = arguments
        if not isinstance(path, int) and flags & os.O_ACCMODE != os.O_WRONLY:
            _write(os.path.abspath(os.fsdecode(path)), _log)  # noqa: PTH100 - as above
    except Exception:  # noqa: BLE001, S110 - whatever it is
        pass


def _write(path: str, log: str) -> None:
    if not path.startswith(_ROOT) or path in _seen:
        return
    _seen.add(path)  # first, as opening the log comes here as well
    file = os.path.join(log, f"{os.getpid()}.opened")  # noqa: PTH118 - as above
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, os.fsencode(path) + b"\0")
    finally:
        os.close(descriptor)


# The name under which Python itself imports this; sessions import it as a part of tasks.
if __name__ == "sitecustomize" and LOG in os.environ:
    start(os.environ[LOG])

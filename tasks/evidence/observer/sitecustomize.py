"""Records which files of the repository this Python process opens for reading.

At start-up, Python imports a module with this name, if there is one, before any other code. This
folder is on PYTHONPATH only while a run is observed, and then for any Python that a session starts.
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
    """Start recording, into a file in the folder `log`."""
    global _log, _is_installed  # noqa: PLW0603 - an audit hook cannot be removed
    _seen.clear()
    _log = log
    if not _is_installed:
        sys.addaudithook(_record)
        _is_installed = True


def stop() -> None:
    """Stop recording."""
    global _log  # noqa: PLW0603 - as in `start`
    _log = None


def _record(event: str, arguments: Sequence[Any]) -> None:
    if event != "open" or _log is None:
        return
    # An error here would be raised in the program that opens the file.
    try:
        path, _, flags = arguments
        if not isinstance(path, int) and flags & os.O_ACCMODE != os.O_WRONLY:
            _write(os.path.abspath(os.fsdecode(path)), _log)  # noqa: PTH100 - as above
    except Exception:  # noqa: BLE001, S110 - any error
        pass


def _write(path: str, log: str) -> None:
    if not path.startswith(_ROOT) or path in _seen:
        return
    _seen.add(path)  # first, since opening the log calls the hook again
    file = os.path.join(log, f"{os.getpid()}.opened")  # noqa: PTH118 - as above
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, os.fsencode(path) + b"\0")
    finally:
        os.close(descriptor)


# Python itself imports this module under that name; the sessions import it from tasks.
if __name__ == "sitecustomize" and LOG in os.environ:
    start(os.environ[LOG])

"""A lock on a run's folder: only one training run may use the folder at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from gates.errors import GateInputError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path, *, may_exist: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Create `folder` and lock it, so that no other process trains in it while this block runs.

    The kernel releases the lock when the process ends, however it ends. Forked processes do not
    inherit it, because data-loading workers may briefly outlive a kill.

    Args:
        folder: the run's folder.
        may_exist: whether the folder may exist already, as when a run is resumed.
        say: called with a message if the file system does not support locks.

    Raises:
        GateInputError: another process trains there, the folder exists but must not, or it cannot
            be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
        file = (folder / NAME).open("a+", encoding="utf-8")
    except FileExistsError as error:
        msg = f"{folder}: this run exists already; choose another --run-id, or add --resume"
        raise GateInputError(msg) from error
    except OSError as error:
        msg = f"{folder}: cannot be written ({error.strerror}); choose another --outputs"
        raise GateInputError(msg) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            msg = f"{folder}: is being trained by {file.read().strip() or 'another process'}; wait "
            msg += "until it ends, or choose another --run-id"
            raise GateInputError(msg) from error
        except OSError as error:
            say(
                f"{folder}: cannot be locked ({error.strerror}); make sure that no other process "
                "trains there"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            (folder / NAME).unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove the lock file of a process that was killed after its run had finished."""
    if not (folder / NAME).exists():
        return
    with contextlib.suppress(GateInputError), locked(folder, may_exist=True, say=lambda _: None):
        pass

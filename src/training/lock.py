"""A run's folder belongs to one training at a time, for as long as that lasts."""

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
    """Make `folder`, and keep everybody else from training in it while this block runs.

    The kernel lets go of the lock when the process ends, however it ends. What is forked does not
    have it: the workers that load data may outlive a kill for a moment.

    Args:
        folder: of the run.
        may_exist: whether it may be there, as when a run is resumed.
        say: is told where a file system knows no locks.

    Raises:
        GateInputError: another process trains there, it is there and may not be, or it cannot be
            made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
        file = (folder / NAME).open("a+", encoding="utf-8")
    except FileExistsError as error:
        msg = f"{folder}: there is a run of that name; choose another --run-id, or add --resume"
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
            msg += "until it has ended, or choose another --run-id"
            raise GateInputError(msg) from error
        except OSError as error:
            say(
                f"{folder}: cannot be locked ({error.strerror}); see that nothing else trains there"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            (folder / NAME).unlink(missing_ok=True)


def drop_left_over(folder: Path) -> None:
    """Drop the file of a process that was killed when its run had ended."""
    if not (folder / NAME).exists():
        return
    with contextlib.suppress(GateInputError), locked(folder, may_exist=True, say=lambda _: None):
        pass

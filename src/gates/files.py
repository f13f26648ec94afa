"""Files that appear whole or not at all, and their digests."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from gates.errors import GateInputError


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[IO[bytes]]:
    """Open a stand-in for `file` that takes its place, fsynced, when the block ends well.

    The folder is made if it is missing. If the block raises, or the process is killed,
    `file` stays what it was. A link stays, and the file that it leads to is replaced. A device or
    a pipe, such as /dev/stdout, cannot be replaced and is written to.

    Raises:
        GateInputError: the folder cannot be made or written to.
    """
    if _is_special(file):
        with _writing(file), file.open("wb") as stream:
            yield stream
        return
    file = Path(os.path.realpath(file)) if file.is_symlink() else file
    descriptor, stand_in = _stand_in(file)
    try:
        with _writing(file):
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp makes private files; what a run leaves is for others to read.
            stand_in.chmod(0o666 & ~_umask())
            stand_in.replace(file)
    finally:
        stand_in.unlink(missing_ok=True)
    _fsync_folder(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write `text` to `file` as UTF-8, whole or not at all.

    Raises:
        GateInputError: the folder cannot be made or written to.
    """
    with atomic_write(file) as stream:
        stream.write(text.encode())


def refuse_to_overwrite(read: Iterable[Path | None], *, written: Iterable[Path | None]) -> None:
    """Refuse a command that would write over what it reads, or write one file twice.

    Raises:
        GateInputError: a file that is written is one that is read, or another that is written.
    """
    uses = {_identity(file): f"{file}, which is read" for file in read if file is not None}
    for file in written:
        if file is None or _is_special(file):
            continue
        identity = _identity(file)
        if identity in uses:
            msg = (
                f"{file}: would be written over {uses[identity]}; choose another place to write to"
            )
            raise GateInputError(msg)
        uses[identity] = f"{file}, which is written as well"


def check_writable(file: Path | None) -> None:
    """Make the folder of `file`, if there is one, and make sure that it can be written to.

    Raises:
        GateInputError: it cannot.
    """
    if file is not None and not _is_special(file):
        descriptor, stand_in = _stand_in(file)
        os.close(descriptor)
        stand_in.unlink()


def sha256(file: Path) -> str:
    """Return the SHA-256 of `file` in hex.

    Raises:
        GateInputError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror})"
        raise GateInputError(msg) from error


def _identity(file: Path) -> tuple[int, int] | str:
    """Return what two paths of one file have in common, which links and letter case do not."""
    resolved = os.path.realpath(file)  # `x/../file` is there, even before somebody makes x
    try:
        found = os.stat(resolved)  # noqa: PTH116 - a string
    except OSError:
        return resolved
    return found.st_dev, found.st_ino


def _is_special(file: Path) -> bool:
    """Whether `file` is a device, a pipe or a socket."""
    return file.exists() and not (file.is_file() or file.is_dir())


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{file}: cannot be written ({error.strerror or error}); choose another place"
        raise GateInputError(msg) from error


def _stand_in(file: Path) -> tuple[int, Path]:
    """Open a new file beside `file`, in a folder that is made if it is missing."""
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    return descriptor, Path(name)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Atomic writes, and digests of files."""

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
    """Open a temporary file that replaces `file` when the block succeeds.

    It is fsynced before it replaces `file`, and the folder is created if it is missing. If the
    block raises, or the process is killed, `file` keeps its old content. If `file` is a link, the
    file it points to is replaced. A device or a pipe, such as /dev/stdout, cannot be replaced and
    is written to directly.

    Raises:
        GateInputError: the folder cannot be created or written to.
    """
    if _is_special(file):
        with _writing(file), file.open("wb") as stream:
            yield stream
        return
    file = Path(os.path.realpath(file)) if file.is_symlink() else file
    descriptor, temporary = _open_temporary(file)
    try:
        with _writing(file):
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp creates private files, but others must be able to read what a run writes.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write `text` to `file` as UTF-8, atomically.

    Raises:
        GateInputError: the folder cannot be created or written to.
    """
    with atomic_write(file) as stream:
        stream.write(text.encode())


def refuse_to_overwrite(read: Iterable[Path | None], *, written: Iterable[Path | None]) -> None:
    """Refuse a command that would overwrite its own input, or write one file twice.

    Raises:
        GateInputError: an output is also an input, or the same file as another output.
    """
    uses = {_identity(file): f"{file}, which is an input" for file in read if file is not None}
    for file in written:
        if file is None or _is_special(file):
            continue
        identity = _identity(file)
        if identity in uses:
            msg = f"{file}: would overwrite {uses[identity]}; choose another place to write to"
            raise GateInputError(msg)
        uses[identity] = f"{file}, which is another output"


def check_writable(file: Path | None) -> None:
    """Create the folder of `file`, unless it is None, and check that it can be written to.

    Raises:
        GateInputError: the folder cannot be created or written to.
    """
    if file is not None and not _is_special(file):
        descriptor, temporary = _open_temporary(file)
        os.close(descriptor)
        temporary.unlink()


def sha256(file: Path) -> str:
    """Return the SHA-256 of `file` in hex.

    Raises:
        GateInputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror})"
        raise GateInputError(msg) from error


def _identity(file: Path) -> tuple[int, int] | str:
    """Return a key that all paths to one file share, despite links and letter case."""
    resolved = os.path.realpath(file)  # `x/../file` exists, even before x does
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


def _open_temporary(file: Path) -> tuple[int, Path]:
    """Open a new file next to `file`; create the folder if it is missing."""
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    return descriptor, Path(name)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

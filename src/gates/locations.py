"""Files by address: a path, any address that fsspec opens, or a model in MLflow's registry."""

import contextlib
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gates.errors import GateError, GateInputError, describe

# The files of a registered version, in the order in which they are looked for.
_MODEL_FILES = ("checkpoint.*", "predictions.parquet")


@contextlib.contextmanager
def local_copy(uri: str, *, prefer: str = "checkpoint.*") -> Iterator[Path]:
    """Provide the file at `uri` as a local file while the block runs.

    Args:
        uri: a path, an address that fsspec opens (`s3://`, `gs://`, `https://`, `memory://`), or
            `models:/NAME@ALIAS` or `models:/NAME/VERSION` for a model that `gates register` put
            into the registry at MLFLOW_TRACKING_URI.
        prefer: a name pattern; which file to take if a model has several.

    Raises:
        GateInputError: the file cannot be read. A caller must not treat it as absent.
    """
    if not uri.strip():
        msg = "the address of a model or its predictions is empty; give one"
        raise GateInputError(msg)
    if ":/" not in uri:
        if Path(uri).is_dir():
            msg = f"{uri}: is a folder; name a file in it, such as {Path(uri) / _MODEL_FILES[1]}"
            raise GateInputError(msg)
        if not Path(uri).is_file():
            msg = f"{uri}: no such file"
            raise GateInputError(msg)
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="gates-") as folder:
        fetch = _fetch_model if uri.startswith("models:/") else _fetch
        file = fetch(uri, Path(folder), prefer)
        try:
            yield file
        except GateError as error:
            # The copy is gone by the time the message is read, so name the address instead.
            raise type(error)(str(error).replace(str(file), shown(uri))) from error


def shown(uri: str) -> str:
    """Return `uri` without its query, which may hold a signature that no error may reveal."""
    return uri.partition("?")[0] if "://" in uri else uri


def download(uri: str, file: Path) -> None:
    """Copy the file at `uri`, a path or an address that fsspec opens, to `file`.

    Raises:
        GateInputError: the file cannot be read.
    """
    try:
        with opened(uri) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except Exception as error:  # each of fsspec's file systems raises its own errors
        msg = f"{shown(uri)}: cannot be read ({_describe(error).replace(uri, shown(uri))})"
        raise GateInputError(msg) from error


def opened(uri: str, **options: Any) -> Any:
    """Open `uri` with fsspec; web addresses go through the machine's proxies.

    Args:
        uri: a path or an address.
        options: passed to fsspec's file system.
    """
    import fsspec  # noqa: PLC0415 - slow to import, and not needed for a local file

    # Without trust_env, aiohttp ignores HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    is_web = uri.startswith(("http://", "https://"))
    proxied = {"client_kwargs": {"trust_env": True}} if is_web else {}
    return fsspec.open(uri, **proxied, **options)


def _fetch(uri: str, folder: Path, _: str) -> Path:
    # Drop the query of a signed address, because the suffix shows the file's format.
    file = folder / PurePosixPath(shown(uri)).name
    download(uri, file)
    return file


def _fetch_model(uri: str, folder: Path, prefer: str) -> Path:
    from gates.registry.loading import fetch_model  # noqa: PLC0415 - not needed for a path

    patterns = tuple(dict.fromkeys((prefer, *_MODEL_FILES)))
    try:
        return fetch_model(uri, patterns, folder)
    except GateInputError as error:
        message = str(error)
        # The registry names its own address or the version; add the address the user gave.
        raise GateInputError(message if message.startswith(uri) else f"{uri}: {message}") from error


def _describe(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        # fsspec reports "no such file" for a server that cannot be reached.
        if isinstance(cause, ConnectionError | socket.gaierror | ssl.SSLError):
            is_system = cause.errno is not None and cause.errno > 0
            reason = os.strerror(cause.errno) if is_system and cause.errno else describe(cause)
            return f"connection failed: {reason}"
        cause = cause.__cause__ or cause.__context__
    kind = "no such file: " if isinstance(error, FileNotFoundError) else ""
    return kind + describe(error, longest=200)

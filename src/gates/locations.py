"""Files by their address: a path, whatever fsspec opens, or a model of MLflow's registry."""

import contextlib
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gates.errors import GateError, GateInputError, said_by

# What a version in the registry holds, and which of it is looked for first.
_OF_A_MODEL = ("checkpoint.*", "predictions.parquet")


@contextlib.contextmanager
def local_copy(uri: str, *, prefer: str = "checkpoint.*") -> Iterator[Path]:
    """Give the file at `uri` as a local one, for as long as the block runs.

    Args:
        uri: a path, an address that fsspec opens (`s3://`, `gs://`, `https://`, `memory://`), or
            `models:/NAME@ALIAS` or `models:/NAME/VERSION` in the registry that
            MLFLOW_TRACKING_URI names, where it was put by `gates register`.
        prefer: which file of a model to take, where it has several; a pattern of its name.

    Raises:
        GateInputError: it cannot be read. Never taken for "there is none".
    """
    if not uri.strip():
        msg = "the address of a model or its predictions is empty; name one"
        raise GateInputError(msg)
    if ":/" not in uri:
        if Path(uri).is_dir():
            msg = f"{uri}: is a folder; name a file in it, such as {Path(uri) / _OF_A_MODEL[1]}"
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
            # The copy's name says nothing, and it is gone when the message is read.
            raise type(error)(str(error).replace(str(file), shown(uri))) from error


def shown(uri: str) -> str:
    """Return an address as an error may name it: without the signature that opens it."""
    return uri.partition("?")[0] if "://" in uri else uri


def download(uri: str, file: Path) -> None:
    """Copy what is at `uri`, a path or an address that fsspec opens, to `file`.

    Raises:
        GateInputError: it cannot be read.
    """
    try:
        with opened(uri) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except Exception as error:  # each file system of fsspec has errors of its own
        msg = f"{shown(uri)}: cannot be read ({_told(error).replace(uri, shown(uri))})"
        raise GateInputError(msg) from error


def opened(uri: str, **options: Any) -> Any:
    """Return what fsspec opens at `uri`, over the web by way of the machine's proxies.

    Args:
        uri: a path or an address.
        options: of fsspec's file system.
    """
    import fsspec  # noqa: PLC0415 - takes a moment to import, and a local file needs none of it

    # Without trust_env, aiohttp ignores HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    is_web = uri.startswith(("http://", "https://"))
    proxied = {"client_kwargs": {"trust_env": True}} if is_web else {}
    return fsspec.open(uri, **proxied, **options)


def _fetch(uri: str, folder: Path, _: str) -> Path:
    # Without the query of a signed address: the ending says what the file holds.
    file = folder / PurePosixPath(shown(uri)).name
    download(uri, file)
    return file


def _fetch_model(uri: str, folder: Path, prefer: str) -> Path:
    from gates.registry.loading import fetch_model  # noqa: PLC0415 - a path needs none of it

    patterns = tuple(dict.fromkeys((prefer, *_OF_A_MODEL)))
    try:
        return fetch_model(uri, patterns, folder)
    except GateInputError as error:
        told = str(error)
        # What the registry says names its address, or the version; the user gave this one.
        raise GateInputError(told if told.startswith(uri) else f"{uri}: {told}") from error


def _told(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        # fsspec makes "no such file" of a server that cannot be reached.
        if isinstance(cause, ConnectionError | socket.gaierror | ssl.SSLError):
            is_system = cause.errno is not None and cause.errno > 0
            why = os.strerror(cause.errno) if is_system and cause.errno else said_by(cause)
            return f"connection failed: {why}"
        cause = cause.__cause__ or cause.__context__
    kind = "no such file: " if isinstance(error, FileNotFoundError) else ""
    return kind + said_by(error, longest=200)

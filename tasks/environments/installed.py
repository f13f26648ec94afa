"""Compares the files in an environment with each package's RECORD.

https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

import base64
import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def incomplete(folder: Path) -> list[str]:
    """Return the packages in the environment `folder` that lack a file."""
    # Every session checks tens of thousands of files: strings take half the time of paths.
    found = {name for name, file, _ in _files(folder) if not os.path.exists(file)}  # noqa: PTH110
    return sorted(found)


def changed(folder: Path) -> list[str]:
    """Return one line for each file in the environment `folder` that is missing or changed."""
    lines = []
    for name, file, digest in _files(folder):
        path = Path(os.path.normpath(file))
        if not path.is_file():
            lines.append(f"{path} ({name}): is missing")
        elif digest and _digest(path, digest.partition("=")[0]) != digest:
            lines.append(f"{path} ({name}): has changed since it was installed")
    return lines


def _files(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each file's package, path and digest, which is empty if RECORD has none."""
    for record in sorted(folder.glob("lib/*/site-packages/*.dist-info/RECORD")):
        name, packages = record.parent.name.partition("-")[0], f"{record.parent.parent}{os.sep}"
        with record.open(encoding="utf-8", newline="") as rows:
            for path, digest, *_ in csv.reader(rows):
                if not path.endswith(".pyc"):  # Python recreates these
                    yield name, packages + path, digest


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(found).decode().rstrip('=')}"

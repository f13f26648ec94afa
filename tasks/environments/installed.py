"""What is installed in an environment, held against what each package says of its files.

https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

import base64
import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def incomplete(folder: Path) -> list[str]:
    """Return the packages in the environment `folder` of which a file is missing."""
    # Every session asks for tens of thousands of files: strings take half the time of paths.
    found = {name for name, file, _ in _files(folder) if not os.path.exists(file)}  # noqa: PTH110
    return sorted(found)


def changed(folder: Path) -> list[str]:
    """Return each file in the environment `folder` that is not as it was packed, a line each."""
    lines = []
    for name, file, digest in _files(folder):
        place = Path(os.path.normpath(file))
        if not place.is_file():
            lines.append(f"{place}: of {name}: is missing")
        elif digest and _digest(place, digest.partition("=")[0]) != digest:
            lines.append(f"{place}: of {name}: is not what was installed")
    return lines


def _files(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each file with its package and its digest, which is empty where none is recorded."""
    for record in sorted(folder.glob("lib/*/site-packages/*.dist-info/RECORD")):
        name, place = record.parent.name.partition("-")[0], f"{record.parent.parent}{os.sep}"
        with record.open(encoding="utf-8", newline="") as rows:
            for path, digest, *_ in csv.reader(rows):
                if not path.endswith(".pyc"):  # made here, and again when one is missing
                    yield name, place + path, digest


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(found).decode().rstrip('=')}"

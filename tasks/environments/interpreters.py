"""Finds CPython interpreters on PATH, in pyenv and in uv."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# Ask the interpreter for its path, since a candidate may be a shim or a virtual environment's.
_PRINT_IDENTITY = (
    "import sys;"
    "print(sys.implementation.name, '%d.%d' % sys.version_info[:2],"
    " getattr(sys, '_base_executable', sys.executable))"
)


def find(version: str, variables: Mapping[str, str] = os.environ) -> Path | None:
    """Return an installed CPython of `version` (`major.minor`), or None.

    Tries the running interpreter, then PATH, pyenv's versions (which are often
    not on PATH) and the interpreters that uv has installed.
    """
    for candidate in _candidates(version, variables):
        interpreter = _real_interpreter(candidate, version)
        if interpreter is not None:
            return interpreter
    return None


def _candidates(version: str, variables: Mapping[str, str]) -> Iterator[Path]:
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    for folder in variables.get("PATH", "").split(os.pathsep):
        yield Path(folder, f"python{version}")
    home = Path(variables.get("HOME", str(Path.home())))
    pyenv = Path(variables.get("PYENV_ROOT", home / ".pyenv"))
    yield from _newest_first(pyenv / "versions", version, "{version}.*")
    data = Path(variables.get("XDG_DATA_HOME", home / ".local" / "share"))
    uv = Path(variables.get("UV_PYTHON_INSTALL_DIR", data / "uv" / "python"))
    yield from _newest_first(uv, version, "cpython-{version}.*")


def _newest_first(folder: Path, version: str, pattern: str) -> list[Path]:
    installed = folder.glob(f"{pattern.format(version=version)}/bin/python{version}")
    return sorted(installed, key=_natural, reverse=True)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 3.12.10 after 3.12.9."""
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", str(path))]


def _real_interpreter(candidate: Path, version: str) -> Path | None:
    if not (candidate.is_file() and os.access(candidate, os.X_OK)):
        return None
    try:
        answer = subprocess.run(
            [candidate, "-I", "-c", _PRINT_IDENTITY],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # such as a broken link, or a shim for a version that is not installed
    match answer.stdout.strip().split(" ", 2):
        case ["cpython", found, path] if found == version:
            return Path(path)
        case _:
            return None

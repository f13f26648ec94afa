"""The packages of uv.lock: every version for every cell, whatever is installed here."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gates.errors import GateInputError, said_by


@dataclass(frozen=True, kw_only=True, order=True)
class LockedPackage:
    """A version of a package, as the lock has it.

    Args:
        name: in its normal form.
        version: the version.
        files: SHA-256 of each file that may be installed, by the file's name.
        requires: the name and version of each package that it depends on in some cell.
    """

    name: str
    version: str
    files: tuple[tuple[str, str], ...]
    requires: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """What it is called in files: `NAME==VERSION`."""
        return f"{self.name}=={self.version}"


def read_lock(file: Path) -> list[LockedPackage]:
    """Return the packages in `file`, less the project itself, sorted.

    Raises:
        GateInputError: it is missing, damaged, or holds no package.
    """
    return parse_lock(_text_of(file), where=str(file))


def read_shipped(file: Path, package: str) -> list[LockedPackage]:
    """Return what `shipped` finds in the lock in `file`.

    Raises:
        GateInputError: as for `read_lock` and `shipped`.
    """
    return shipped(_text_of(file), package, where=str(file))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file}: cannot be read ({said_by(error)}); name a uv.lock"
        raise GateInputError(msg) from error


def parse_lock(text: str, *, where: str) -> list[LockedPackage]:
    """Return the packages in the `text` of a lock, less the project itself, sorted.

    Raises:
        GateInputError: it is damaged, or holds no package; errors name `where` it is from.
    """
    try:
        everything = tomllib.loads(text)["package"]
        entries = [entry for entry in everything if "registry" in entry["source"]]
        versions = _versions_by_name(entries)
        found = [_package(entry, versions) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{where}: not a whole uv.lock ({error}); take it back: git checkout uv.lock"
        raise GateInputError(msg) from error
    if not found:
        msg = f"{where}: holds no package, so there is nothing to judge"
        raise GateInputError(msg)
    return sorted(found)


def shipped(text: str, package: str, *, where: str) -> list[LockedPackage]:
    """Return what a package of the workspace needs at run time, on any machine and in any cell.

    Args:
        text: of a lock.
        package: its name, as it is imported.
        where: what errors call the lock.

    Raises:
        GateInputError: the lock is damaged, or the package is not of its workspace.
    """
    locked = parse_lock(text, where=where)
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in tomllib.loads(text)["package"]:
        entries.setdefault(entry["name"], []).append(entry)
    start = package.replace("_", "-").lower()
    if not any("registry" not in entry["source"] for entry in entries.get(start, [])):
        msg = f"{where}: has no package {package} of this workspace; nox -s lock adds it"
        raise GateInputError(msg)
    found: set[tuple[str, str]] = set()
    asked: set[tuple[str, str | None, str | None]] = set()
    # Each is a name, a version where the lock names one, and an extra.
    left: list[tuple[str, str | None, str | None]] = [(start, None, None)]
    while left:
        name, version, extra = requirement = left.pop()
        if requirement in asked:
            continue
        asked.add(requirement)
        for entry in entries.get(name, []):
            if version in (None, entry.get("version")):
                found.add((name, str(entry.get("version"))))
                needed = entry.get("dependencies", [])
                if extra is not None:
                    needed = entry.get("optional-dependencies", {}).get(extra, [])
                for each in needed:
                    extras = [None, *each.get("extra", [])]
                    left += [(each["name"], each.get("version"), one) for one in extras]
    return [each for each in locked if (each.name, each.version) in found]


def select(
    packages: Iterable[LockedPackage], requirements: Path, *, cell: str | None
) -> list[LockedPackage]:
    """Return those of `packages` that `uv export` names: for Linux on x86-64, if for one cell.

    Args:
        packages: of the lock.
        requirements: what uv exported, with markers.
        cell: its interpreter and torch, as in `3.12-2.15`; None for every cell.

    Raises:
        GateInputError: the file cannot be read, or the cell names no interpreter.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415 - for one cell only

    machine = None if cell is None else _machine(cell)
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{requirements}: cannot be read ({error.strerror}); name what uv exported"
        raise GateInputError(msg) from error
    lines = [line.rstrip("\\ ") for line in text.splitlines() if re.match(r"\w", line)]
    asked = [Requirement(line) for line in lines]
    kept = {
        f"{each.name}{each.specifier}"
        for each in asked
        if machine is None or each.marker is None or each.marker.evaluate(machine)
    }
    return [package for package in packages if package.key in kept]


def _machine(cell: str) -> dict[str, str]:
    """Return what the markers of requirements ask, for Linux on x86-64."""
    python = cell.partition("-")[0]
    if not re.fullmatch(r"3\.\d+", python):
        msg = f"--cell {cell}: expected PYTHON-TORCH, as in --cell 3.12-2.15"
        raise GateInputError(msg)
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def _versions_by_name(entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for entry in entries:
        versions.setdefault(entry["name"], []).append(entry["version"])
    return versions


def _package(entry: Mapping[str, Any], versions: Mapping[str, list[str]]) -> LockedPackage:
    files = [*entry.get("wheels", []), *filter(None, [entry.get("sdist")])]
    extras = [each for group in entry.get("optional-dependencies", {}).values() for each in group]
    requires = {
        (each["name"], version)
        for each in [*entry.get("dependencies", []), *extras]
        for version in ([each["version"]] if "version" in each else versions[each["name"]])
    }
    return LockedPackage(
        name=entry["name"],
        version=entry["version"],
        files=tuple(
            sorted(
                (each["url"].rsplit("/", 1)[-1], each["hash"].removeprefix("sha256:"))
                for each in files
            )
        ),
        requires=tuple(sorted(requires)),
    )

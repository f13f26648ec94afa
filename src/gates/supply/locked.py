"""The packages in uv.lock: every version for every cell, not only those installed here."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gates.errors import GateInputError, describe


@dataclass(frozen=True, kw_only=True, order=True)
class LockedPackage:
    """A locked version of a package.

    Args:
        name: the normalised name.
        version: the version.
        files: name and SHA-256 of each file that may be installed.
        requires: name and version of each package that it depends on in any cell.
    """

    name: str
    version: str
    files: tuple[tuple[str, str], ...]
    requires: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """The identifier used in files: `NAME==VERSION`."""
        return f"{self.name}=={self.version}"


def read_lock(file: Path) -> list[LockedPackage]:
    """Return the packages in `file` except the project itself, sorted.

    Raises:
        GateInputError: the file is missing, damaged, or has no packages.
    """
    return parse_lock(_read_text(file), where=str(file))


def read_shipped(file: Path, package: str) -> list[LockedPackage]:
    """Return the result of `shipped` for the lock in `file`.

    Raises:
        GateInputError: as for `read_lock` and `shipped`.
    """
    return shipped(_read_text(file), package, where=str(file))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file}: cannot be read ({describe(error)}); name a uv.lock"
        raise GateInputError(msg) from error


def parse_lock(text: str, *, where: str) -> list[LockedPackage]:
    """Return the packages in the text of a lock except the project itself, sorted.

    Args:
        text: the content of a lock.
        where: the name of the lock in error messages.

    Raises:
        GateInputError: the lock is damaged, or has no packages.
    """
    try:
        everything = tomllib.loads(text)["package"]
        entries = [entry for entry in everything if "registry" in entry["source"]]
        versions = _versions_by_name(entries)
        found = [_package(entry, versions) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{where}: not a valid uv.lock ({error}); restore it: git checkout uv.lock"
        raise GateInputError(msg) from error
    if not found:
        msg = f"{where}: has no packages, so there is nothing to judge; run: nox -s lock"
        raise GateInputError(msg)
    return sorted(found)


def shipped(text: str, package: str, *, where: str) -> list[LockedPackage]:
    """Return the run-time dependencies of a workspace package, on any machine and in any cell.

    Args:
        text: the content of a lock.
        package: the package's import name.
        where: the name of the lock in error messages.

    Raises:
        GateInputError: the lock is damaged, or the package is not in its workspace.
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
    visited: set[tuple[str, str | None, str | None]] = set()
    # Each is a name, the version if the lock gives one, and an extra.
    pending: list[tuple[str, str | None, str | None]] = [(start, None, None)]
    while pending:
        name, version, extra = requirement = pending.pop()
        if requirement in visited:
            continue
        visited.add(requirement)
        for entry in entries.get(name, []):
            if version in (None, entry.get("version")):
                found.add((name, str(entry.get("version"))))
                needed = entry.get("dependencies", [])
                if extra is not None:
                    needed = entry.get("optional-dependencies", {}).get(extra, [])
                for each in needed:
                    extras = [None, *each.get("extra", [])]
                    pending += [(each["name"], each.get("version"), one) for one in extras]
    return [each for each in locked if (each.name, each.version) in found]


def select(
    packages: Iterable[LockedPackage], requirements: Path, *, cell: str | None
) -> list[LockedPackage]:
    """Return the packages that an export by uv lists.

    Args:
        packages: the locked packages.
        requirements: the file that `uv export` wrote, with markers.
        cell: select for this cell's interpreter and torch, such as `3.12-2.15`, on Linux x86-64;
            None for every cell and machine.

    Raises:
        GateInputError: the file cannot be read, or the cell is malformed.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415 - for one cell only

    machine = None if cell is None else _machine(cell)
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{requirements}: cannot be read ({error.strerror}); name a file that uv export wrote"
        raise GateInputError(msg) from error
    lines = [line.rstrip("\\ ") for line in text.splitlines() if re.match(r"\w", line)]
    exported = [Requirement(line) for line in lines]
    kept = {
        f"{each.name}{each.specifier}"
        for each in exported
        if machine is None or each.marker is None or each.marker.evaluate(machine)
    }
    return [package for package in packages if package.key in kept]


def _machine(cell: str) -> dict[str, str]:
    """Return the environment that markers are evaluated in: a cell's, on Linux x86-64."""
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

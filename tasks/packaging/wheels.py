"""Builds the wheel and the source distribution of each package, and checks their contents.

Clean clones ensure that only committed files are included; the locked build backend, that nothing
is fetched; and the commit's time as the clock, that everybody gets the same bytes.
"""

import email.parser
import hashlib
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import git
from tasks.environments import environment
from tasks.errors import abort
from tasks.evidence import manifest
from tasks.project import ROOT, members, project_table

# hatchling adds these files.
_ADDED_TO_SDIST = frozenset(("PKG-INFO", ".gitignore", "hatch_build.py", "pyproject.toml"))
_ADDED_TO_WHEEL = frozenset(("METADATA", "WHEEL", "RECORD", "entry_points.txt"))


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Settings that may differ between two machines that build the same commit.

    Args:
        umask: the permissions that new files do not get.
        modified: modification time to set on the files, in seconds since 1970; None to keep it.
        variables: locale, time zone, hash seed.
    """

    umask: int = 0o022
    modified: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


HERE = Circumstances(variables={"TZ": "UTC0", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"})
ELSEWHERE = Circumstances(
    umask=0o077,
    modified=1_000_000_000,
    variables={"TZ": "XXX-14", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
)


def commit_time(commit: str, root: Path = ROOT) -> str:
    """Return the time of `commit`, in seconds since 1970."""
    return (git.output("show", "--no-patch", "--format=%ct", commit, cwd=root) or "").strip()


def clone(commit: str, folder: Path, circumstances: Circumstances, root: Path = ROOT) -> Path:
    """Create a clean clone of `commit` in `folder`, and return `folder`."""
    # The user's git settings for line endings and hooks must not affect a release.
    plain = ("-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null")
    _git(*plain, "clone", "--quiet", "--no-checkout", str(root), str(folder), umask=0o022)
    detached = ("-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)
    _git("-C", str(folder), *plain, *detached, umask=circumstances.umask)
    if circumstances.modified is not None:
        for file in folder.rglob("*"):
            if ".git" not in file.parts:
                times = (circumstances.modified, circumstances.modified)
                os.utime(file, times, follow_symlinks=False)
    return folder


def _git(*arguments: str, umask: int) -> None:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607 - the git on PATH
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        umask=umask,
    )
    if done.returncode:
        abort(f"build: git: {done.stderr.strip().splitlines()[-1]}")


def build(
    tools: Path,
    source: Path,
    out: Path,
    epoch: str,
    circumstances: Circumstances,
    targets: Sequence[str] = ("sdist", "wheel"),
) -> list[Path]:
    """Build the package in `source` into `out` and return the files.

    Args:
        tools: the environment that has the build backend.
        source: its folder in a clean clone, or an unpacked source distribution.
        out: a folder for the result, empty or new.
        epoch: the modification time for the files in the archives, in seconds since 1970.
        circumstances: the settings to build with.
        targets: what to build.
    """
    wanted = [word for target in targets for word in ("--target", target)]
    command = [str(tools / "bin" / "python"), "-m", "hatchling", "build", *wanted]
    variables = {**circumstances.variables, "SOURCE_DATE_EPOCH": epoch}
    manifest.note_command(command, variables)
    done = subprocess.run(
        [*command, "--directory", str(out)],
        cwd=source,
        env={**environment.isolated(tools), **variables},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        umask=circumstances.umask,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        abort(f"build: hatchling: {lines[-1] if lines else 'failed without an error message'}")
    return sorted(out.iterdir())


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack a source distribution into `folder`, and return its top folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the files in which two archives differ; empty if they are identical."""
    if one.read_bytes() == other.read_bytes():
        return []
    before, after = _members(one), _members(other)
    names = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    return [f"{one.name}: {name}" for name in names] or [f"{one.name}: the archive's format"]


def _members(archive: Path) -> dict[str, tuple[object, ...]]:
    """Return the contents, time and permissions of each file in an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {
                each.filename: (wheel.read(each), each.date_time, each.external_attr)
                for each in wheel.infolist()
            }
    with tarfile.open(archive) as sdist:
        return {
            each.name: (_contents(sdist, each), each.mtime, each.mode, each.uid, each.uname)
            for each in sdist.getmembers()
        }


def _contents(sdist: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = sdist.extractfile(member)
    return file.read() if file else b""


def problems_of_contents(files: Sequence[Path], source: Path) -> list[str]:
    """Return the differences between the archives and the clean clone `source`."""
    packages = {_stem(project_table(folder)): folder for folder in members(source)}
    found: list[str] = []
    for file in files:
        folder = packages[file.name.partition("-")[0]]
        project = project_table(folder)
        expected = _expected_names(file, folder, project)
        names = _names(file)
        found += [f"{file.name}: lacks {name}" for name in sorted(expected - names)]
        found += [f"{file.name}: also contains {name}" for name in sorted(names - expected)]
        found += _problems_of_metadata(file, project)
    return found


def _stem(project: Mapping[str, Any]) -> str:
    """Return the part of a package's archive names before the first dash."""
    return re.sub(r"[-_.]+", "_", project["name"]).lower()


def _names(archive: Path) -> set[str]:
    """Return the names of the files in an archive, without those that hatchling adds."""
    names = {name for name in _members(archive) if not name.endswith("/")}
    if archive.suffix != ".whl":
        return {name.partition("/")[2] for name in names} - _ADDED_TO_SDIST
    return {name for name in names if not _is_wheel_metadata(name)}


def _is_wheel_metadata(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder.endswith(".dist-info") and file in _ADDED_TO_WHEEL


def _expected_names(archive: Path, folder: Path, project: Mapping[str, Any]) -> set[str]:
    listed = git.output("ls-files", "-z", ".", cwd=folder) or ""
    tracked = set(listed.split("\0")[:-1])
    if archive.suffix != ".whl":
        return tracked - _ADDED_TO_SDIST
    licences = set(project.get("license-files", []))
    information = "-".join(archive.name.split("-")[:2]) + ".dist-info"
    code = {f"{folder.name}/{name}" for name in tracked - licences - _ADDED_TO_SDIST}
    return code | {f"{information}/licenses/{name}" for name in licences}


def _problems_of_metadata(archive: Path, project: Mapping[str, Any]) -> list[str]:
    metadata = email.parser.Parser().parsestr(_metadata(archive))
    expected = {
        "Name": project["name"],
        "Version": project["version"],
        "Requires-Python": ",".join(sorted(project["requires-python"].split(","))),
    }
    return [
        f"{archive.name}: its {key} is {metadata[key]}, but in pyproject.toml it is {value}"
        for key, value in expected.items()
        if metadata[key] != value
    ]


def _metadata(archive: Path) -> str:
    ending = ".dist-info/METADATA" if archive.suffix == ".whl" else "/PKG-INFO"
    (contents,) = (entry[0] for name, entry in _members(archive).items() if name.endswith(ending))
    assert isinstance(contents, bytes)  # noqa: S101 - for mypy
    return contents.decode()


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""Builds the wheel and the source distribution of each package, and looks at what is in them.

From clean clones, so that only what is committed gets in; with the build backend of the lock, so
that nothing is fetched; with the commit's time for a clock, so that anybody gets the same bytes.
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
from tasks.errors import stop
from tasks.evidence import manifest
from tasks.project import ROOT, members, project_table

# What hatchling adds by itself.
_OF_SDIST = frozenset(("PKG-INFO", ".gitignore", "hatch_build.py", "pyproject.toml"))
_OF_WHEEL = frozenset(("METADATA", "WHEEL", "RECORD", "entry_points.txt"))


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What may differ between two machines that build the same commit.

    Args:
        umask: the permissions that new files do not get.
        modified: when the files were last changed, in seconds since 1970; None leaves them.
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
    """Return when `commit` was made, in seconds since 1970."""
    return (git.output("show", "--no-patch", "--format=%ct", commit, cwd=root) or "").strip()


def clone(commit: str, folder: Path, circumstances: Circumstances, root: Path = ROOT) -> Path:
    """Make a clean clone of `commit` in `folder`, and return it."""
    # What the user has told git about line ends or hooks must not get into a release.
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
        ["git", *arguments],  # noqa: S607 - the one on PATH, as for anybody
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        umask=umask,
    )
    if done.returncode:
        stop(f"build: git: {done.stderr.strip().splitlines()[-1]}")


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
        out: a folder of its own.
        epoch: the time that the files get, in seconds since 1970.
        circumstances: those to build in.
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
        said = (done.stderr or done.stdout).strip().splitlines()
        stop(f"build: hatchling: {said[-1] if said else 'failed without a word'}")
    return sorted(out.iterdir())


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack a source distribution into `folder`, and return the folder in it."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two archives differ, by the files in them; nothing if no byte does."""
    if one.read_bytes() == other.read_bytes():
        return []
    before, after = _members(one), _members(other)
    names = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    return [f"{one.name}: {name}" for name in names] or [f"{one.name}: how it is packed"]


def _members(archive: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in an archive: contents, time and permissions of each file."""
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
    """Return what the archives lack of the clean clone `source`, or have besides."""
    packages = {_stem(project_table(folder)): folder for folder in members(source)}
    found: list[str] = []
    for file in files:
        folder = packages[file.name.partition("-")[0]]
        project = project_table(folder)
        expected = _expected_of(file, folder, project)
        names = _names(file)
        found += [f"{file.name}: lacks {name}" for name in sorted(expected - names)]
        found += [f"{file.name}: also holds {name}" for name in sorted(names - expected)]
        found += _problems_of_metadata(file, project)
    return found


def _stem(project: Mapping[str, Any]) -> str:
    """Return what the names of a package's archives begin with."""
    return re.sub(r"[-_.]+", "_", project["name"]).lower()


def _names(archive: Path) -> set[str]:
    """Return the names of the files in an archive, less those that say of what it is made."""
    names = {name for name in _members(archive) if not name.endswith("/")}
    if archive.suffix != ".whl":
        return {name.partition("/")[2] for name in names} - _OF_SDIST
    return {name for name in names if not _is_of_format(name)}


def _is_of_format(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder.endswith(".dist-info") and file in _OF_WHEEL


def _expected_of(archive: Path, folder: Path, project: Mapping[str, Any]) -> set[str]:
    listed = git.output("ls-files", "-z", ".", cwd=folder) or ""
    tracked = set(listed.split("\0")[:-1])
    if archive.suffix != ".whl":
        return tracked - _OF_SDIST
    licences = set(project.get("license-files", []))
    information = "-".join(archive.name.split("-")[:2]) + ".dist-info"
    code = {f"{folder.name}/{name}" for name in tracked - licences - _OF_SDIST}
    return code | {f"{information}/licenses/{name}" for name in licences}


def _problems_of_metadata(archive: Path, project: Mapping[str, Any]) -> list[str]:
    says = email.parser.Parser().parsestr(_metadata(archive))
    wanted = {
        "Name": project["name"],
        "Version": project["version"],
        "Requires-Python": ",".join(sorted(project["requires-python"].split(","))),
    }
    return [
        f"{archive.name}: its {key} is {says[key]}, in pyproject.toml it is {value}"
        for key, value in wanted.items()
        if says[key] != value
    ]


def _metadata(archive: Path) -> str:
    ending = ".dist-info/METADATA" if archive.suffix == ".whl" else "/PKG-INFO"
    (contents,) = (facts[0] for name, facts in _members(archive).items() if name.endswith(ending))
    assert isinstance(contents, bytes)  # noqa: S101 - for mypy
    return contents.decode()


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""The portable lock: uv.lock without any index's host, so that it installs from any index.

Torch may come from an index of its own, [tool.tasks] torch-index: of that, too, only the version
and the hashes are in the lock.

python3 -m tasks.environments.lockfile     checks that uv.lock is portable and fits pyproject.toml
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.environments import uv
from tasks.errors import stop
from tasks.project import ROOT, members, project_table, torch_index

PLACEHOLDER = "https://index.invalid"

_REGISTRY = re.compile(r'registry = "[^"]*"')
# The files of a package stand in lines with their hash; a local index gives paths, not URLs.
_FILE = re.compile(r'\{ (?:url|path) = "(?:[^"]*/)?([^"/]+)", hash =')
_UNHASHED = re.compile(r'\{ (?:url|path) = "(?P<place>[^"]+)"(?!, hash)')
# What uv repeats of [tool.uv.sources] in the project's requirements.
_INDEX = re.compile(r', index = "[^"]*"')


def portable(lock: str) -> str:
    """Return `lock` with every index and every file's address replaced by the placeholder."""
    lock = _REGISTRY.sub(f'registry = "{PLACEHOLDER}/simple"', _INDEX.sub("", lock))
    return _FILE.sub(rf'{{ url = "{PLACEHOLDER}/\1", hash =', lock)


def foreign_sources(lock: str) -> list[str]:
    """Return what `lock` names besides the placeholder and the project itself."""
    found: list[str] = []
    for package in tomllib.loads(lock).get("package", []):
        if not _is_own(package["source"]):
            found += [str(value) for value in package["source"].values()]
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        addresses = (file.get("url") or file.get("path", "") for file in files)
        found += [address for address in addresses if not address.startswith(f"{PLACEHOLDER}/")]
    return found


def _is_own(source: Mapping[str, str]) -> bool:
    """Whether a package comes from the placeholder, or is one of the workspace."""
    if source == {"registry": f"{PLACEHOLDER}/simple"}:
        return True
    ((kind, place),) = source.items()
    return kind in {"editable", "virtual"} and re.fullmatch(r"\.|src/\w+", place) is not None


def staleness(root: Path = ROOT) -> str | None:
    """Return why the lock in `root` does not fit pyproject.toml, or None if it does.

    Told that the placeholder is the index, uv takes the portable lock for its own and
    answers from the lock alone: no network, no change to any file. It does not look at the names
    that the project's extras have in markers, though with other names no extra selects anything.
    """
    foreign = _foreign_extras(root)
    if foreign:
        return f"its markers name the extra {foreign[0]}, which no package here has"
    index = f"--default-index={PLACEHOLDER}/simple"
    problem = uv.problem("lock", "--check", "--offline", index, cwd=root)
    # It never asks an index, so that what it misses is missing in the lock.
    return "it lacks a package" if problem and "connect this machine" in problem else problem


def _foreign_extras(root: Path) -> list[str]:
    """Return what the lock's markers call an extra and is none of a package here."""
    ours: set[str] = set()
    for folder in (root, *members(root)):
        project = project_table(folder)
        name = re.sub(r"[-_.]+", "-", project["name"]).lower()
        # uv puts the length before the name, so that no two packages' extras have the same name.
        extras = project.get("optional-dependencies", {})
        ours |= {f"extra-{len(name)}-{name}-{extra}" for extra in extras}
    lock = (root / "uv.lock").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"extra [!=]= '(extra-\d+-[^']+)'", lock)) - ours)


def renew(root: Path, arguments: Sequence[str]) -> str:
    """Make the lock in `root` fit pyproject.toml; return uv's account of what changed.

    uv works on a copy, so that an error or a kill leaves the lock as it was; and that where torch
    comes from is known to this copy only, or the lock would not fit the project without it.

    Args:
        root: the folder of pyproject.toml and uv.lock.
        arguments: passed on to `uv lock`, such as `--upgrade`.

    Raises:
        SystemExit: with exit code 2 and one line, when uv finds no solution.
    """
    lock = root / "uv.lock"
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "uv.lock"
        _copy_pyprojects(root, Path(scratch))
        with Path(scratch, "pyproject.toml").open("a", encoding="utf-8") as copied:
            copied.write(_sources_of_torch(torch_index(root)))
        if lock.exists():
            shutil.copy(lock, copy)
        changes = uv.changes("lock", *arguments, cwd=Path(scratch))
        renewed = portable(_hashed(copy.read_text(encoding="utf-8"), Path(scratch)))
    new = lock.with_name(".uv.lock.new")
    new.write_text(renewed, encoding="utf-8")
    new.replace(lock)
    return changes or "uv.lock: no version changed"


def _copy_pyprojects(root: Path, folder: Path) -> None:
    """Copy what a lock is made from: the pyproject.toml of the workspace and of each package."""
    for each in (root, *members(root)):
        copy = folder / each.relative_to(root)
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(each / "pyproject.toml", copy)


def _sources_of_torch(place: str | None) -> str:
    """Return what pyproject.toml says in uv's words where torch comes from `place`."""
    if place is None:
        return ""
    form = "" if "://" in place else 'format = "flat"\n'
    # Explicit: an index of torch has other packages too, and those are not taken from there.
    return (
        '\n[tool.uv.sources.torch]\nindex = "torch"\n\n[[tool.uv.index]]\nname = "torch"\n'
        f"url = {json.dumps(place)}\n{form}explicit = true\n"
    )


def _hashed(lock: str, folder: Path) -> str:
    """Return `lock` with the hashes of files on this machine, which uv leaves out.

    Raises:
        SystemExit: with exit code 2 and one line, if the file is elsewhere.
    """

    def with_hash(found: re.Match[str]) -> str:
        file = folder / found["place"]
        if not file.is_file():
            stop(
                f"lock: the index has no hash of {found['place']}, without which it could not be "
                "checked; name another index"
            )
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return f'{found[0]}, hash = "sha256:{digest}"'

    return _UNHASHED.sub(with_hash, lock)


def main(root: Path = ROOT) -> int:
    """Check the lock in `root`; print one line and return 1 for what is wrong with it."""
    try:
        foreign = foreign_sources((root / "uv.lock").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        print(f"uv.lock: cannot be read ({error}); take it back: git checkout uv.lock")
        return 1
    if foreign and not _is_by_dependabot():
        print(
            f"uv.lock: names {foreign[0]} and {len(foreign) - 1} more, so it installs from nowhere "
            "else; write the portable form: nox -s lock"
        )
        return 1
    reason = _staleness_of_portable_form(root) if foreign else staleness(root)
    if reason is not None:
        print(f"uv.lock: not what pyproject.toml asks for ({reason}); renew it: nox -s lock")
        return 1
    if foreign:
        print("uv.lock: in the form that Dependabot writes; before it is merged: nox -s lock")
    return 0


def _is_by_dependabot() -> bool:
    """Whether Dependabot pushed what GitHub checks here: it cannot write the portable form.

    Its pull request tells whether the new versions work; only then is the lock worth rewriting.
    Anybody can give a branch one of its names, and push to its branches.
    """
    return os.environ.get("GITHUB_ACTOR") == "dependabot[bot]" and bool(
        os.environ.get("GITHUB_HEAD_REF")
    )


def _staleness_of_portable_form(root: Path) -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        _copy_pyprojects(root, Path(scratch))
        lock = portable((root / "uv.lock").read_text(encoding="utf-8"))
        Path(scratch, "uv.lock").write_text(lock, encoding="utf-8")
        return staleness(Path(scratch))


if __name__ == "__main__":
    sys.exit(main())

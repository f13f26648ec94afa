"""The portable lock: uv.lock names no index host, so it installs from any index.

Torch may come from a separate index, [tool.tasks] torch-index. For torch, too, the lock has only
the version and the hashes.

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
from tasks.errors import abort
from tasks.project import ROOT, members, project_table, torch_index

PLACEHOLDER = "https://index.invalid"

_REGISTRY = re.compile(r'registry = "[^"]*"')
# A line per file, with its hash; a local index gives paths instead of URLs.
_FILE = re.compile(r'\{ (?:url|path) = "(?:[^"]*/)?([^"/]+)", hash =')
_UNHASHED = re.compile(r'\{ (?:url|path) = "(?P<place>[^"]+)"(?!, hash)')
# uv copies the index from [tool.uv.sources] into the project's requirements.
_INDEX = re.compile(r', index = "[^"]*"')


def portable(lock: str) -> str:
    """Return `lock` with the placeholder in every index and file address."""
    lock = _REGISTRY.sub(f'registry = "{PLACEHOLDER}/simple"', _INDEX.sub("", lock))
    return _FILE.sub(rf'{{ url = "{PLACEHOLDER}/\1", hash =', lock)


def foreign_sources(lock: str) -> list[str]:
    """Return the sources in `lock` other than the placeholder and the workspace."""
    found: list[str] = []
    for package in tomllib.loads(lock).get("package", []):
        if not _is_own(package["source"]):
            found += [str(value) for value in package["source"].values()]
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        addresses = (file.get("url") or file.get("path", "") for file in files)
        found += [address for address in addresses if not address.startswith(f"{PLACEHOLDER}/")]
    return found


def _is_own(source: Mapping[str, str]) -> bool:
    """Whether a package comes from the placeholder or the workspace."""
    if source == {"registry": f"{PLACEHOLDER}/simple"}:
        return True
    ((kind, location),) = source.items()
    return kind in {"editable", "virtual"} and re.fullmatch(r"\.|src/\w+", location) is not None


def staleness(root: Path = ROOT) -> str | None:
    """Return why the lock in `root` does not match pyproject.toml, or None if it does.

    With the placeholder as its index, uv accepts the portable lock and checks it without the
    network or a change to any file. It does not check the names of the project's extras in
    markers, although an extra under another name would select nothing.
    """
    foreign = _foreign_extras(root)
    if foreign:
        return f"its markers name the extra {foreign[0]}, which no package here has"
    index = f"--default-index={PLACEHOLDER}/simple"
    problem = uv.problem("lock", "--check", "--offline", index, cwd=root)
    # uv contacts no index here, so a network error means that it has to resolve again.
    return uv.OUTDATED if problem and uv.CONNECT in problem else problem


def _foreign_extras(root: Path) -> list[str]:
    """Return the extras in the lock's markers that no package here defines."""
    defined: set[str] = set()
    for folder in (root, *members(root)):
        project = project_table(folder)
        name = re.sub(r"[-_.]+", "-", project["name"]).lower()
        # uv prefixes the name with its length, so that extras of two packages never clash.
        extras = project.get("optional-dependencies", {})
        defined |= {f"extra-{len(name)}-{name}-{extra}" for extra in extras}
    lock = (root / "uv.lock").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"extra [!=]= '(extra-\d+-[^']+)'", lock)) - defined)


def renew(root: Path, arguments: Sequence[str]) -> str:
    """Bring the lock in `root` in line with pyproject.toml; return uv's list of changes.

    uv works on a copy, so an error or a kill leaves the lock as it was. Only the copy of
    pyproject.toml names the torch index, so that the lock also matches the project without it.

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
            copied.write(_torch_source(torch_index(root)))
        if lock.exists():
            shutil.copy(lock, copy)
        changes = uv.changes("lock", *arguments, cwd=Path(scratch))
        renewed = portable(_hashed(copy.read_text(encoding="utf-8"), Path(scratch)))
    new = lock.with_name(".uv.lock.new")
    new.write_text(renewed, encoding="utf-8")
    new.replace(lock)
    return changes or "uv.lock: no version changed"


def _copy_pyprojects(root: Path, folder: Path) -> None:
    """Copy the files that uv locks from: the pyproject.toml of the workspace and each package."""
    for each in (root, *members(root)):
        copy = folder / each.relative_to(root)
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(each / "pyproject.toml", copy)


def _torch_source(index: str | None) -> str:
    """Return the uv settings for pyproject.toml that take torch from `index`."""
    if index is None:
        return ""
    form = "" if "://" in index else 'format = "flat"\n'
    # explicit: take only torch from this index, although it also has other packages.
    return (
        '\n[tool.uv.sources.torch]\nindex = "torch"\n\n[[tool.uv.index]]\nname = "torch"\n'
        f"url = {json.dumps(index)}\n{form}explicit = true\n"
    )


def _hashed(lock: str, folder: Path) -> str:
    """Return `lock` with the hashes of files on this machine, which uv leaves out.

    Raises:
        SystemExit: with exit code 2 and one line, if the file is not on this machine.
    """

    def with_hash(found: re.Match[str]) -> str:
        file = folder / found["place"]
        if not file.is_file():
            abort(
                f"lock: the index has no hash for {found['place']}, so the file could not be "
                "verified; name another index"
            )
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return f'{found[0]}, hash = "sha256:{digest}"'

    return _UNHASHED.sub(with_hash, lock)


def main(root: Path = ROOT) -> int:
    """Check the lock in `root`; if it has a problem, print it in one line and return 1."""
    try:
        foreign = foreign_sources((root / "uv.lock").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        print(f"uv.lock: cannot be read ({error}); restore it: git checkout uv.lock")
        return 1
    if foreign and not _is_by_dependabot():
        print(
            f"uv.lock: names {foreign[0]} and {len(foreign) - 1} more, so it can be installed only "
            "from there; write the portable form: nox -s lock"
        )
        return 1
    reason = _staleness_of_portable_form(root) if foreign else staleness(root)
    if reason is not None:
        why = "" if reason.startswith(uv.OUTDATED) else f" ({reason})"
        print(f"uv.lock: does not match pyproject.toml{why}; update it: nox -s lock")
        return 1
    if foreign:
        print("uv.lock: in the form that Dependabot writes; before merging, run: nox -s lock")
    return 0


def _is_by_dependabot() -> bool:
    """Whether Dependabot, which cannot write the portable form, pushed this pull request.

    Its pull request shows whether the new versions work; only then is the lock worth rewriting.
    The branch name is not evidence: anybody can use one of Dependabot's or push to its branches.
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

"""Locked, hash-checked environments, which uv creates from the portable uv.lock.

An environment is a function of an interpreter and the requirements that the lock
exports for it, so sessions with the same requirements share one. It is stamped once
complete; as long as the stamp matches, a session reuses it unchanged.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tasks.environments import installed, interpreters, uv
from tasks.errors import abort
from tasks.evidence import inputs, manifest
from tasks.project import (
    ROOT,
    WORKSPACE,
    Cell,
    extras_of,
    groups_of,
    members,
    needed_members,
    needs_torch,
    pyproject,
    torch_index,
)

if TYPE_CHECKING:
    import nox  # git hooks run this module without Nox

_STAMP = "environment.json"

# The user's settings for other work must not change what a session runs on or what its tools
# check: PYTEST_ADDOPTS=--collect-only would turn every suite green.
_FOREIGN_VARIABLES = re.compile(
    r"(CONDA|COVERAGE|GIT_CLIFF|HATCH|MYPY|PIP|PRE_COMMIT|PYTEST|PYTHON|RUFF|TYPOS|VIRTUAL_ENV|__PYVENV).*"
)
_HARMLESS_VARIABLES = frozenset(
    (
        "PRE_COMMIT_HOME",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "PYTHONIOENCODING",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
    )
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The locked packages that an environment contains, and its interpreter.

    Args:
        folder: where it is, relative to the root.
        python: the interpreter, `major.minor`.
        groups: the dependency groups of pyproject.toml.
        torch: the torch version, `major.minor`; None for an environment without torch.
        package: the only package whose requirements it contains; None for all packages.
        with_project: whether it also contains the workspace's packages: all of them, with their
            extras, or `package` and the ones that it requires.
    """

    folder: str
    python: str
    groups: tuple[str, ...]
    torch: str | None = None
    package: str | None = None
    with_project: bool = True

    def selection(self, root: Path = ROOT) -> list[str]:
        """Return the arguments for `uv export` that select the packages."""
        if self.package is None and self.torch is None:
            return [f"--only-group={group}" for group in self.groups]
        torch = [f"--extra=torch-{self.torch.replace('.', '-')}"] if self.torch else []
        if self.package is None:
            folders = members(root)
            chosen = ["--all-packages"]
        else:
            folders = [root / "src" / self.package]
            # The workspace defines some groups, and `training` the extras that select a torch.
            others = [*(["workspace"] if self.groups else []), *(["training"] if torch else [])]
            chosen = [f"--package={name}" for name in (self.package, *others)]
        names = {each for folder in folders for each in extras_of(folder.name, root)}
        extras = [f"--extra={name}" for name in sorted(names)] if self.with_project else []
        # uv rejects an undefined group, and not every package defines every group.
        defined = {each for folder in (root, *folders) for each in groups_of(folder)}
        groups = [f"--group={group}" for group in self.groups if group in defined]
        return [*chosen, *torch, *extras, "--no-default-groups", *groups]


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a complete environment was created from.

    Args:
        interpreter: the path of its CPython.
        base: digest of the interpreter and location; if it differs, the environment is recreated.
        contents: digest of the packages; if it differs, they are installed again.
    """

    interpreter: str
    base: str
    contents: str


def of_cell(cell: Cell) -> Environment:
    """The environment for checks that run the code on `cell`."""
    return Environment(
        folder=f".nox/{cell}",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "pytest", "sessions", "test", "types"),
    )


def of_package(package: str, cell: Cell) -> Environment:
    """The environment with only the declared requirements of `package` and its tests."""
    return Environment(
        folder=f".nox/{package}-{cell}",
        python=cell.python,
        torch=cell.torch,
        groups=("pytest", "test"),
        package=package,
    )


def prepare_default_cell() -> Path:
    """Create the environment of sessions that need only one cell, and return its folder."""
    return prepare(of_cell(default_cell()))


def prepare_image(project: str) -> Path:
    """Create the container image's environment for one project or, if "", for all packages."""
    if not project:
        return prepare_default_cell()
    return prepare(of_package(project, own_cell(project)))


def own_cell(package: str) -> Cell:
    """Return the cell in which `package` runs alone, without torch if it does not need it."""
    cell = default_cell()
    return cell if needs_torch(package) else Cell(cell.python)


def of_tools(python: str) -> Environment:
    """The environment for checks that only read the source."""
    return Environment(folder=".nox/tools", python=python, groups=("build", "lint"))


def of_release(python: str) -> Environment:
    """The environment in which packages are built and their descriptions checked."""
    return Environment(folder=".nox/release", python=python, groups=("build", "release"))


def of_wheel(package: str, cell: Cell) -> Environment:
    """The environment with the requirements of `package`'s wheel, for testing that wheel.

    A session installs the wheel there. The next session that prepares this environment finds it
    changed and removes the wheel.
    """
    return Environment(
        folder=f".nox/wheel-{package}",
        python=cell.python,
        torch=cell.torch,
        groups=(),
        package=package,
        with_project=False,
    )


def of_supply(python: str) -> Environment:
    """The environment for checks of the lock and of the models' provenance."""
    return Environment(folder=".nox/supply", python=python, groups=("build", "supply"))


def of_benchmarks(cell: Cell) -> Environment:
    """The environment of benchmarks/: the project and the tools that it is compared with."""
    return Environment(
        folder=f".nox/{cell}-benchmark",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "benchmark"),
    )


def of_editor(cell: Cell) -> Environment:
    """The `.venv` that editors look for, with everything from the same lock."""
    return Environment(
        folder=".venv",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "lint", "pytest", "sessions", "test", "types"),
    )


def default_python() -> str:
    """Return the default interpreter; on a laptop without it, the newest that is installed."""
    default = WORKSPACE.default.python
    if in_ci() or _is_installed(default):
        return default
    for version in reversed(WORKSPACE.pythons):
        if _is_installed(version):
            _log(f"Python {default} is not installed here; using Python {version} instead")
            return version
    return default


def default_cell() -> Cell:
    """Return the cell for sessions that need only one."""
    return Cell(default_python(), WORKSPACE.default.torch)


def in_ci() -> bool:
    """Whether this runs in CI, where nobody would notice that something was skipped."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def has_interpreter(version: str) -> bool:
    """Whether Python `version` is installed, or uv could install it now."""
    return _is_installed(version) or _install_interpreter(version) is None


def prepare(environment: Environment, root: Path = ROOT) -> Path:
    """Bring `environment` in line with the lock, and return its folder.

    An unchanged environment is left alone. Packages come from uv's cache if possible, otherwise
    from the network. An environment left incomplete by a kill is recreated, and a package with
    missing files is reinstalled.

    Raises:
        SystemExit: with exit code 2 and one line on stderr, if that fails.
    """
    folder = root / environment.folder
    requirements = exported(environment, root)
    _complete(folder, environment, requirements, root)
    manifest.note_environment(environment.folder, folder, requirements)
    return folder


def _complete(folder: Path, environment: Environment, requirements: str, root: Path) -> None:
    # Safe without the lock: a session that changes an environment deletes its stamp first.
    stamp = _read_stamp(folder)
    if stamp and _is_complete(folder, environment, requirements, root, stamp):
        return
    with _exclusive(root / ".nox" / f"{folder.name}.lock") as lock:
        stamp = _read_stamp(folder)
        interpreter = _interpreter_in_use(folder, environment, stamp)
        if stamp and _is_complete(folder, environment, requirements, root, stamp):
            return  # another session completed it while this one waited
        broken = installed.incomplete(folder) if stamp else []
        if interpreter is None:
            interpreter = _find_or_install(environment.python)
            _create_empty(folder, interpreter, root, lock)
            broken = []
        _fill(folder, requirements, root, lock, broken)
        if environment.with_project and environment.package:
            _link_packages(folder, environment.package, root)
        elif environment.with_project:
            _install_project(folder, root, lock)
        _round_mtimes(folder)
        stamp = Stamp(
            interpreter=str(interpreter),
            base=_base(folder, environment, interpreter),
            contents=_contents(folder, requirements, root),
        )
        (folder / _STAMP).write_text(json.dumps(asdict(stamp)), encoding="utf-8")


def _is_complete(
    folder: Path, environment: Environment, requirements: str, root: Path, stamp: Stamp
) -> bool:
    return (
        _interpreter_in_use(folder, environment, stamp) is not None
        and stamp.contents == _contents(folder, requirements, root)
        and not installed.incomplete(folder)
    )


def run(
    session: "nox.Session",
    folder: Path,
    program: str,
    *arguments: str,
    success_codes: Iterable[int] = (0,),
    outer: Mapping[str, str] = os.environ,
    stdout: IO[str] | None = None,
    **variables: str,
) -> None:
    """Run a program of the environment in `folder`, isolated from the user's Python settings.

    Args:
        session: the session that runs it.
        folder: the environment.
        program: the program's name in its `bin` folder.
        arguments: the program's arguments.
        success_codes: the exit codes that count as success.
        outer: variables to inherit, less Python settings; they are not in the manifest.
        stdout: receives its output and errors; None for the session's own output.
        variables: additional variables, which the manifest records.
    """
    command = [str(folder / "bin" / program), *arguments]
    manifest.note_command(command, variables)
    isolation = isolated(folder, outer)
    if "PYTHONPATH" in variables and "PYTHONPATH" in isolation:  # for a run that is observed
        isolation["PYTHONPATH"] += os.pathsep + variables.pop("PYTHONPATH")
    session.run(
        *command,
        env={**isolation, **variables},
        include_outer_env=False,
        external=True,
        success_codes=success_codes,
        stdout=stdout,
    )


def output(
    folder: Path, program: str, *arguments: str, cwd: Path | None = None, text: str = ""
) -> str:
    """Return what a program of the environment in `folder` prints; abort if it fails.

    Args:
        folder: the environment.
        program: the program's name in its `bin` folder.
        arguments: the program's arguments.
        cwd: the folder to run it in; None for the current one.
        text: its standard input.
    """
    command = [str(folder / "bin" / program), *arguments]
    manifest.note_command(command, {})
    done = subprocess.run(
        # UTF-8 in every locale, since a commit message may be an argument.
        [word.encode("utf-8", "surrogateescape") for word in command],
        cwd=cwd,
        env=isolated(folder),
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        abort(lines[-1] if lines else f"{program} failed without an error message")
    return done.stdout


def isolated(folder: Path, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables for commands of the environment in `folder`.

    The environment comes first on PATH, the user's Python settings are left out, and
    `uv run` or `uv sync` in the session cannot change the environment.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if name in _HARMLESS_VARIABLES or not _FOREIGN_VARIABLES.fullmatch(name)
    }
    return {
        **uv.without_user_choices(kept),
        "PATH": os.pathsep.join([str(folder / "bin"), outer.get("PATH", "")]),
        "VIRTUAL_ENV": str(folder),
        "UV_PROJECT_ENVIRONMENT": str(folder),
        "UV_FROZEN": "1",
        "UV_NO_SYNC": "1",
        "PYTHONNOUSERSITE": "1",
        **inputs.variables_of_observed(outer),
    }


def exported(environment: Environment, root: Path = ROOT) -> str:
    """Return the requirements of `environment` from the lock, in pip's format."""
    return uv.output(
        "export",
        "--frozen",
        "--quiet",
        "--no-emit-workspace",
        "--no-header",
        "--no-annotate",
        *environment.selection(root),
        cwd=root,
    )


def _read_stamp(folder: Path) -> Stamp | None:
    """Return the stamp of the environment in `folder`; None if it is not complete."""
    try:
        return Stamp(**json.loads((folder / _STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _interpreter_in_use(folder: Path, environment: Environment, stamp: Stamp | None) -> Path | None:
    """Return the environment's interpreter, or None if the environment must be recreated."""
    if stamp is None:
        return None
    interpreter = Path(stamp.interpreter)
    if not interpreter.exists() or stamp.base != _base(folder, environment, interpreter):
        return None
    python = folder / "bin" / "python"
    return interpreter if python.exists() and python.samefile(interpreter) else None


def _base(folder: Path, environment: Environment, interpreter: Path) -> str:
    """Return a digest of the interpreter and location that an environment depends on."""
    binary = interpreter.stat()
    # If the repository moves, the scripts inside still point to the old location.
    return _digest(
        environment.python, str(folder), str(interpreter), binary.st_size, binary.st_mtime_ns
    )


def _contents(folder: Path, requirements: str, root: Path) -> str:
    """Return a digest of the requirements, the workspace's packages and site-packages' mtime."""
    tables = [[each.name, pyproject(each)] for each in members(root)]
    # Changes when somebody adds or removes a package, for example with `uv pip install`.
    touched = [packages.stat().st_mtime_ns for packages in folder.glob("lib/*/site-packages")]
    return _digest(requirements, tables, touched)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _create_empty(folder: Path, interpreter: Path, root: Path, lock: int) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.unlink(missing_ok=True)  # a file or link in its place
    uv.output("venv", "--quiet", f"--python={interpreter}", str(folder), cwd=root, lock=lock)


def _fill(folder: Path, requirements: str, root: Path, lock: int, broken: list[str]) -> None:
    """Install missing packages, reinstall those in `broken`, and remove all others."""
    (folder / _STAMP).unlink(missing_ok=True)
    packages = sum("==" in line for line in requirements.splitlines())
    _log(f"{folder.relative_to(root)}: installing {packages} packages from uv.lock")
    if broken:
        _log(f"{folder.relative_to(root)}: reinstalling {', '.join(broken)} (files are missing)")
    file = folder / "requirements.txt"
    file.write_text(requirements, encoding="utf-8")
    python = f"--python={folder / 'bin' / 'python'}"
    # --no-build: if a wheel's hash is wrong, uv would otherwise build the source distribution
    # with unlocked build tools. --compile-bytecode: with PYTHONDONTWRITEBYTECODE set, every
    # process would compile the packages again.
    sync = ("pip", "sync", "--require-hashes", "--no-build", "--compile-bytecode", python)
    again = [f"--reinstall-package={name}" for name in broken]
    uv.install(*sync, *again, *_torch_options(root), str(file), cwd=root, lock=lock)


def _install_project(folder: Path, root: Path, lock: int) -> None:
    python = f"--python={folder / 'bin' / 'python'}"
    # The build backend is among the locked packages, so building fetches nothing.
    own = ("pip", "install", "--no-deps", "--no-build-isolation", python)
    packages = [f"--editable={folder.relative_to(root)}" for folder in members(root)]
    uv.install(*own, *packages, cwd=root, lock=lock)


def _link_packages(folder: Path, package: str, root: Path) -> None:
    """Make `package` and the packages it requires importable, but no others of the workspace.

    An editable install would put all of src/ on the path, and would need a build backend.
    """
    links = folder / "packages"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for name in (package, *needed_members(package, root)):
        (links / name).symlink_to(root / "src" / name)
    for packages in folder.glob("lib/*/site-packages"):
        (packages / "workspace.pth").write_text(f"{links}\n", encoding="utf-8")


def _torch_options(root: Path) -> list[str]:
    """Return the options with which uv also searches the torch index."""
    index = torch_index(root)
    if index is None:
        return []
    if "://" not in index:
        return [f"--find-links={index}"]
    # A torch index also has old versions of other packages, and by default uv would not look for
    # them elsewhere. Searching all indexes is "unsafe" only without hashes, which the lock has.
    return [f"--index={index}", "--index-strategy=unsafe-best-match"]


def _round_mtimes(folder: Path) -> None:
    """Truncate the times in the stamp to seconds, since image layers store no fractions."""
    for packages in folder.glob("lib/*/site-packages"):
        seconds = int(packages.stat().st_mtime)
        os.utime(packages, (seconds, seconds))


def _find_or_install(version: str) -> Path:
    problem = None
    interpreter = interpreters.find(version)
    if interpreter is None:
        problem = _install_interpreter(version)
        interpreter = interpreters.find(version)
    if interpreter is None:
        abort(f"Python {version}: not found on PATH, in pyenv or in uv ({problem}); install it")
    return interpreter


def _install_interpreter(version: str) -> str | None:
    """Let uv install an interpreter; return its error, or None."""
    _log(f"Python {version} is not installed here; installing it with uv")
    return uv.problem("python", "install", "--quiet", version, cwd=ROOT)


def _is_installed(version: str) -> bool:
    """Whether Python `version` is installed; checks existing environments first, which is fast."""
    stamps = (_read_stamp(folder) for folder in (ROOT / ".nox").glob(f"*py{version}-*"))
    if any(stamp and Path(stamp.interpreter).exists() for stamp in stamps):
        return True
    return interpreters.find(version) is not None


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[int]:
    """Hold `lock`, so that parallel sessions do not create the same environment twice."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log(f"waiting for another session, which is creating {lock.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _log(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)

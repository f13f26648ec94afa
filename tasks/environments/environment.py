"""Locked, hash-checked environments, made by uv from the portable uv.lock.

An environment is a function of an interpreter and the requirements that the lock
exports for it, so sessions with the same requirements share one. It is stamped when
it is whole; while the stamp still describes it, a session starts without touching it.
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
from tasks.errors import stop
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
    import nox  # the git hooks run this module without Nox

_STAMP = "environment.json"

# What the user has set for other work must not choose what a session runs on, or what its tools
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
    """Which packages of the lock an environment holds, and for which interpreter.

    Args:
        folder: where it is, relative to the root.
        python: the interpreter, `major.minor`.
        groups: the dependency groups of pyproject.toml.
        torch: the torch version, `major.minor`; None for an environment without torch.
        package: the one package whose needs it has, if that is so.
        with_project: whether the workspace's packages can be imported there: all of them, with
            their extras, or `package` and those that it needs.
    """

    folder: str
    python: str
    groups: tuple[str, ...]
    torch: str | None = None
    package: str | None = None
    with_project: bool = True

    def selection(self, root: Path = ROOT) -> list[str]:
        """Return the arguments with which `uv export` selects the packages."""
        if self.package is None and self.torch is None:
            return [f"--only-group={group}" for group in self.groups]
        torch = [f"--extra=torch-{self.torch.replace('.', '-')}"] if self.torch else []
        if self.package is None:
            folders = members(root)
            chosen = ["--all-packages"]
        else:
            folders = [root / "src" / self.package]
            # The workspace has groups of its own, and `training` the extras that choose a torch.
            others = [*(["workspace"] if self.groups else []), *(["training"] if torch else [])]
            chosen = [f"--package={name}" for name in (self.package, *others)]
        names = {each for folder in folders for each in extras_of(folder.name, root)}
        extras = [f"--extra={name}" for name in sorted(names)] if self.with_project else []
        # uv refuses a group that nothing defines: not every package has tests with their own needs.
        defined = {each for folder in (root, *folders) for each in groups_of(folder)}
        groups = [f"--group={group}" for group in self.groups if group in defined]
        return [*chosen, *torch, *extras, "--no-default-groups", *groups]


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a whole environment was made from.

    Args:
        interpreter: the path of the CPython under it.
        base: digest of what it cannot outlive; a difference means to make it anew.
        contents: digest of what is in it; a difference means to install again.
    """

    interpreter: str
    base: str
    contents: str


def of_cell(cell: Cell) -> Environment:
    """The environment of the checks that run the project on `cell`."""
    return Environment(
        folder=f".nox/{cell}",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "pytest", "sessions", "test", "types"),
    )


def of_package(package: str, cell: Cell) -> Environment:
    """The environment that has what `package` and its tests declare, and nothing else."""
    return Environment(
        folder=f".nox/{package}-{cell}",
        python=cell.python,
        torch=cell.torch,
        groups=("pytest", "test"),
        package=package,
    )


def prepare_default_cell() -> Path:
    """Make the environment of the sessions that need one cell only, and return its folder."""
    return prepare(of_cell(default_cell()))


def prepare_image(project: str) -> Path:
    """Make the environment of the container image: of one project or, for "", of all packages."""
    if not project:
        return prepare_default_cell()
    return prepare(of_package(project, own_cell(project)))


def own_cell(package: str) -> Cell:
    """Return the cell in which `package` runs alone: without torch, if it does not need that."""
    cell = default_cell()
    return cell if needs_torch(package) else Cell(cell.python)


def of_tools(python: str) -> Environment:
    """The environment of the checks that only read the source."""
    return Environment(folder=".nox/tools", python=python, groups=("build", "lint"))


def of_release(python: str) -> Environment:
    """The environment in which the package is built and its description checked."""
    return Environment(folder=".nox/release", python=python, groups=("build", "release"))


def of_wheel(package: str, cell: Cell) -> Environment:
    """What the wheel of `package` says that it needs: a session installs the wheel itself there.

    The next session that asks for it finds it changed, and takes the wheel out again.
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
    """The environment of what reads the lock and the provenance of models."""
    return Environment(folder=".nox/supply", python=python, groups=("build", "supply"))


def of_benchmarks(cell: Cell) -> Environment:
    """The environment of benchmarks/: the project and, beside it, what it is compared with."""
    return Environment(
        folder=f".nox/{cell}-benchmark",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "benchmark"),
    )


def of_editor(cell: Cell) -> Environment:
    """The `.venv` that editors look for: everything, from the same lock."""
    return Environment(
        folder=".venv",
        python=cell.python,
        torch=cell.torch,
        groups=("build", "lint", "pytest", "sessions", "test", "types"),
    )


def default_python() -> str:
    """Return the default interpreter, or on a laptop without it the newest one that is there."""
    default = WORKSPACE.default.python
    if in_ci() or _is_installed(default):
        return default
    for version in reversed(WORKSPACE.pythons):
        if _is_installed(version):
            _say(f"Python {default} is not installed here, so Python {version} stands in for it")
            return version
    return default


def default_cell() -> Cell:
    """Return the cell of the sessions that need only one."""
    return Cell(default_python(), WORKSPACE.default.torch)


def in_ci() -> bool:
    """Whether this runs where nobody is there to read that something was skipped."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def has_interpreter(version: str) -> bool:
    """Whether an interpreter of `version` is installed, or uv has just installed one."""
    return _is_installed(version) or _install_interpreter(version) is None


def prepare(environment: Environment, root: Path = ROOT) -> Path:
    """Make `environment` hold exactly what the lock says, and return its folder.

    Nothing is done when nothing changed. Packages come from uv's cache before they
    come from the network. An environment that a kill left unfinished is made anew, and a package of
    which a file is missing is installed again.

    Raises:
        SystemExit: with exit code 2 and one line on stderr, when it can't be made.
    """
    folder = root / environment.folder
    requirements = exported(environment, root)
    _make_whole(folder, environment, requirements, root)
    manifest.note_environment(environment.folder, folder, requirements)
    return folder


def _make_whole(folder: Path, environment: Environment, requirements: str, root: Path) -> None:
    # Without the lock: who makes an environment takes its stamp away first.
    stamp = _read_stamp(folder)
    if stamp and _is_whole(folder, environment, requirements, root, stamp):
        return
    with _exclusive(root / ".nox" / f"{folder.name}.lock") as lock:
        stamp = _read_stamp(folder)
        interpreter = _interpreter_in_use(folder, environment, stamp)
        if stamp and _is_whole(folder, environment, requirements, root, stamp):
            return  # by another session, for which this one has waited
        broken = installed.incomplete(folder) if stamp else []
        if interpreter is None:
            interpreter = _find_or_install(environment.python)
            _make_empty(folder, interpreter, root, lock)
            broken = []
        _fill(folder, requirements, root, lock, broken)
        if environment.with_project and environment.package:
            _link_packages(folder, environment.package, root)
        elif environment.with_project:
            _install_project(folder, root, lock)
        _round_times(folder)
        stamp = Stamp(
            interpreter=str(interpreter),
            base=_base(folder, environment, interpreter),
            contents=_contents(folder, requirements, root),
        )
        (folder / _STAMP).write_text(json.dumps(asdict(stamp)), encoding="utf-8")


def _is_whole(
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
        program: its name in there.
        arguments: the program's.
        success_codes: the exit codes that are no failure.
        outer: variables that it inherits, unless they are settings of Python; not in the manifest.
        stdout: where what it prints goes, errors too; None for where the session's does.
        variables: more variables, which the manifest shows.
    """
    command = [str(folder / "bin" / program), *arguments]
    manifest.note_command(command, variables)
    isolation = isolated(folder, outer)
    if "PYTHONPATH" in variables and "PYTHONPATH" in isolation:  # where the run is watched
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
    """Return what a program of the environment in `folder` prints; end if it fails.

    Args:
        folder: the environment.
        program: its name in there.
        arguments: the program's.
        cwd: the folder to run it in; None for the current one.
        text: what it reads from its standard input.
    """
    command = [str(folder / "bin" / program), *arguments]
    manifest.note_command(command, {})
    done = subprocess.run(
        # As UTF-8 whatever the locale: a commit message is an argument.
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
        said = done.stderr.strip().splitlines()
        stop(said[-1] if said else f"{program} failed without a word")
    return done.stdout


def isolated(folder: Path, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables under which commands of the environment in `folder` run.

    The environment comes first on PATH, the user's Python settings are left out, and a
    `uv run` or `uv sync` inside the session cannot change the environment under it.
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
    """Return the requirements of `environment`, as the lock has them."""
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
    """Return the stamp of the environment in `folder`; None if it was never whole."""
    try:
        return Stamp(**json.loads((folder / _STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _interpreter_in_use(folder: Path, environment: Environment, stamp: Stamp | None) -> Path | None:
    """Return the interpreter that the environment was made for, if it is still the one to use."""
    if stamp is None:
        return None
    interpreter = Path(stamp.interpreter)
    if not interpreter.exists() or stamp.base != _base(folder, environment, interpreter):
        return None
    python = folder / "bin" / "python"
    return interpreter if python.exists() and python.samefile(interpreter) else None


def _base(folder: Path, environment: Environment, interpreter: Path) -> str:
    """Return a digest of what an environment cannot outlive: its interpreter and its place."""
    binary = interpreter.stat()
    # Moved with the repository, the scripts inside would still point to the old place.
    return _digest(
        environment.python, str(folder), str(interpreter), binary.st_size, binary.st_mtime_ns
    )


def _contents(folder: Path, requirements: str, root: Path) -> str:
    """Return a digest of what is installed: the requirements, the packages, and nothing else."""
    tables = [[each.name, pyproject(each)] for each in members(root)]
    # Changes when a package comes or goes behind our back (`uv pip install` into it).
    touched = [packages.stat().st_mtime_ns for packages in folder.glob("lib/*/site-packages")]
    return _digest(requirements, tables, touched)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _make_empty(folder: Path, interpreter: Path, root: Path, lock: int) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.unlink(missing_ok=True)  # whatever somebody has put there
    uv.output("venv", "--quiet", f"--python={interpreter}", str(folder), cwd=root, lock=lock)


def _fill(folder: Path, requirements: str, root: Path, lock: int, broken: list[str]) -> None:
    """Install what is missing, the packages in `broken` again, and take out what is foreign."""
    (folder / _STAMP).unlink(missing_ok=True)
    packages = sum("==" in line for line in requirements.splitlines())
    _say(f"{folder.relative_to(root)}: installing {packages} packages from uv.lock")
    if broken:
        _say(f"{folder.relative_to(root)}: files are missing of {', '.join(broken)}")
    file = folder / "requirements.txt"
    file.write_text(requirements, encoding="utf-8")
    python = f"--python={folder / 'bin' / 'python'}"
    # No builds: where a wheel's hash is wrong, uv would build the source distribution instead,
    # with build tools that nobody has locked. Byte-compiled now, or every process pays for it
    # where PYTHONDONTWRITEBYTECODE is set.
    sync = ("pip", "sync", "--require-hashes", "--no-build", "--compile-bytecode", python)
    again = [f"--reinstall-package={name}" for name in broken]
    uv.install(*sync, *again, *_where_torch_is(root), str(file), cwd=root, lock=lock)


def _install_project(folder: Path, root: Path, lock: int) -> None:
    python = f"--python={folder / 'bin' / 'python'}"
    # The build backend is among the locked packages: nothing is fetched to build them.
    own = ("pip", "install", "--no-deps", "--no-build-isolation", python)
    packages = [f"--editable={folder.relative_to(root)}" for folder in members(root)]
    uv.install(*own, *packages, cwd=root, lock=lock)


def _link_packages(folder: Path, package: str, root: Path) -> None:
    """Let `package` and those that it needs be imported, and no other of the workspace.

    An editable install would put all of src/ on the path, and needs a build backend.
    """
    links = folder / "packages"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for name in (package, *needed_members(package, root)):
        (links / name).symlink_to(root / "src" / name)
    for packages in folder.glob("lib/*/site-packages"):
        (packages / "workspace.pth").write_text(f"{links}\n", encoding="utf-8")


def _where_torch_is(root: Path) -> list[str]:
    """Return the arguments by which uv looks for torch where the lock has it from as well."""
    place = torch_index(root)
    if place is None:
        return []
    if "://" not in place:
        return [f"--find-links={place}"]
    # Such an index has old versions of other packages, at which uv would stop looking. What is
    # "unsafe" about looking further is that another index may have the version: the hash decides.
    return [f"--index={place}", "--index-strategy=unsafe-best-match"]


def _round_times(folder: Path) -> None:
    """Cut the times that the stamp holds to seconds: the layers of an image keep no finer ones."""
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
        stop(
            f"Python {version}: neither on PATH nor one of pyenv's or uv's ({problem}); install it"
        )
    return interpreter


def _install_interpreter(version: str) -> str | None:
    """Let uv install an interpreter; return what went wrong, or None."""
    _say(f"Python {version} is not installed here: asking uv for it")
    return uv.problem("python", "install", "--quiet", version, cwd=ROOT)


def _is_installed(version: str) -> bool:
    """Whether an interpreter of `version` is here; asks the environments first, which is free."""
    stamps = (_read_stamp(folder) for folder in (ROOT / ".nox").glob(f"*py{version}-*"))
    if any(stamp and Path(stamp.interpreter).exists() for stamp in stamps):
        return True
    return interpreters.find(version) is not None


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[int]:
    """Hold `lock` so that sessions run side by side do not make one environment twice."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another session that makes {lock.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _say(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)

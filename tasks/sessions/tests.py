"""Sessions that run tests, package by package, in one environment or over a matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import nox

from tasks.catalogue import Part, Tier, files_in, of_projects, read_by, session
from tasks.environments import environment
from tasks.project import ROOT, WORKSPACE, Cell, Project, needs_torch

# Files that every suite reads, and all helpers that a suite may import.
_SHARED = ("tests/unit/conftest.py", "tests/projects", *files_in("tests", "*.py"))


# The suites in tests/unit that do not belong to a package in src/, with the files they read.
_OTHER_SUITES = {
    "tasks": (
        *_SHARED,
        *files_in("configs"),
        *(str(file.relative_to(ROOT)) for file in sorted(ROOT.glob("src/*/*.schema.json"))),
        "tests/unit/tasks",
        ".dockerignore",
        ".gitattributes",
        ".github",
        ".gitignore",
        "Dockerfile",
        "docker",
    ),
    # These tests check the repository as a whole.
    "repository": (".",),
}


def _inputs_of(package: str) -> tuple[str, ...]:
    """Return the files that can change the result of a package's unit tests."""
    return (*_SHARED, f"tests/unit/{package}", *read_by(package))


def _suite(folder: str) -> list[str]:
    """Return the folder of tests in a list, or an empty list if the package has no such tests."""
    return [folder] if (ROOT / folder).is_dir() else []


def _units() -> Iterator[Part]:
    default = WORKSPACE.default_project.package
    for package in WORKSPACE.packages:
        yield Part(
            name=package,
            arguments=(package,),
            tiers=("pr",),
            inputs=_inputs_of(package),
            takes_arguments=package == default,
        )
    for suite, inputs in _OTHER_SUITES.items():
        yield Part(name=suite, arguments=(suite,), tiers=("pr",), inputs=inputs)


@session(timeout_minutes=15, parts=_units(), each="PACKAGE")
def unit(session: nox.Session, suite: str) -> None:
    """Run the unit tests of each package and require 90 % branch coverage.

    `unit(tasks)` tests the sessions, `unit(repository)` the repository as a whole.
    After --: arguments of pytest; coverage is then not measured.
    """
    folder = environment.prepare_default_cell()
    source = suite if suite == "tasks" else f"src/{suite}"
    measured = (ROOT / source).is_dir() and not session.posargs
    coverage = [f"--cov={source}", "--cov-report=term"] if measured else []
    _pytest(session, folder, *_workers(session), *coverage, suites=[f"tests/unit/{suite}"])


def _smokes() -> Iterator[Part]:
    for part in of_projects("pr", in_image=True):
        suite = _suite(f"tests/smoke/{part.name}")
        yield replace(part, inputs=("tests/conftest.py", *suite, *part.inputs))


@session(timeout_minutes=10, parts=_smokes(), each="PROJECT")
def smoke(session: nox.Session, project: Project) -> None:
    """Train for seconds on real data: one-batch overfit, negative controls, schema, round trip.

    After --: arguments of pytest.
    """
    folder = environment.prepare_default_cell()
    # One process: the tests share their imports, and torch already uses every core.
    _pytest(session, folder, suites=[f"tests/smoke/{project.package}"])


def _matrix() -> Iterator[Part]:
    """Yield each package on each cell: the first and last cell on each PR, all cells nightly."""
    for package in WORKSPACE.packages:
        cells = (
            WORKSPACE.cells
            if needs_torch(package)
            else tuple(Cell(python) for python in WORKSPACE.pythons)
        )
        smoke = _suite(f"tests/smoke/{package}")
        for cell in cells:
            tiers: tuple[Tier, ...] = (
                ("pr", "nightly") if cell in (cells[0], cells[-1]) else ("nightly",)
            )
            yield Part(
                name=f"{package}, {cell}",
                arguments=(package, cell),
                tiers=tiers,
                inputs=(*_inputs_of(package), *smoke),
                in_image=cell == WORKSPACE.default,
                takes_arguments=package == WORKSPACE.default_project.package,
            )


@session(timeout_minutes=20, label="full-matrix", parts=_matrix(), each="PACKAGE, CELL")
def matrix(session: nox.Session, package: str, cell: Cell) -> None:
    """Run the tests of each package on every cell of Python x torch, or of Python alone.

    The cells of a package that does not need torch contain only what the package needs. A cell
    whose interpreter is not available is skipped, which fails with CI=true. After --: arguments of
    pytest.
    """
    if not environment.has_interpreter(cell.python):
        reason = f"Python {cell.python} is not installed and uv could not install it"
        if environment.in_ci():
            session.error(f"{reason}; with CI=true, cells must not be skipped")
        session.skip(reason)
    made = environment.of_cell(cell) if cell.torch else environment.of_package(package, cell)
    suites = [f"tests/unit/{package}", *_suite(f"tests/smoke/{package}")]
    _pytest(session, environment.prepare(made), *_workers(session), suites=suites)


def _isolated() -> Iterator[Part]:
    for package in WORKSPACE.packages:
        yield Part(
            name=package,
            arguments=(package,),
            tiers=("nightly",),
            inputs=(*_inputs_of(package), *_suite(f"tests/smoke/{package}")),
            takes_arguments=package == WORKSPACE.default_project.package,
        )


@session(timeout_minutes=20, parts=_isolated(), each="PACKAGE")
def isolated(session: nox.Session, package: str) -> None:
    """Run a package's tests with only the dependencies installed that its pyproject.toml declares.

    In an environment shared by all packages, a missing declaration goes unnoticed. After --:
    arguments of pytest.
    """
    made = environment.of_package(package, environment.own_cell(package))
    folder = environment.prepare(made)
    suites = [f"tests/unit/{package}", *_suite(f"tests/smoke/{package}")]
    _pytest(session, folder, *_workers(session), suites=suites)


# Every file is an input: the tests copy the repository and run the workflows' commands there.
@session(tiers=["nightly"], timeout_minutes=45, inputs=["."])
def integration(session: nox.Session) -> None:
    """Run the multi-process tests: kills and exact resume, torchrun, the workflows' commands.

    After --: arguments of pytest.
    """
    folder = environment.prepare_default_cell()
    _pytest(session, folder, *_workers(session), suites=["tests/integration"])


def _pytest(session: nox.Session, folder: Path, *options: str, suites: Sequence[str]) -> None:
    """Run pytest with the arguments after --, on all of `suites` unless they name tests."""
    asked = session.posargs
    chosen = [] if any(map(_names_tests, asked)) else suites
    environment.run(session, folder, "pytest", *options, *asked, *chosen)


def _names_tests(argument: str) -> bool:
    path = (ROOT / argument.partition("::")[0]).resolve()
    return path.is_relative_to(ROOT / "tests") and path.exists()


def _workers(session: nox.Session) -> list[str]:
    """Run a whole suite on all cores; selected tests run in one process, for debuggers."""
    # "logical" rather than a number: the recorded command must not differ between machines.
    return [] if session.posargs else ["--numprocesses=logical", "--dist=worksteal"]

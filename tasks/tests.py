"""Sessions that run the tests, in the default cell and over the matrix."""

import os
from collections.abc import Sequence
from pathlib import Path

import nox

from tasks import environment
from tasks.catalogue import Tier, session
from tasks.project import PROJECT, Cell

INPUTS = ("src", "tests", "configs", "README.md", ".ci", ".pre-commit-config.yaml")


def _matrix() -> dict[Cell, tuple[Tier, ...]]:
    """Return every cell with its tiers: both ends of the matrix on each PR, all of it nightly."""
    ends = {PROJECT.cells[0], PROJECT.cells[-1]}
    return {cell: ("pr", "nightly") if cell in ends else ("nightly",) for cell in PROJECT.cells}


@session(tiers=["pr"], timeout_minutes=15, inputs=INPUTS)
def unit(session: nox.Session) -> None:
    """Run the unit tests and demand 90 % branch coverage.

    After --: arguments of pytest. A run of only some tests has no coverage to demand.
    """
    folder = environment.prepare(environment.of_cell(environment.default_cell()))
    coverage = [] if session.posargs else ["--cov", "--cov-report=term"]
    _pytest(session, folder, *coverage, *(session.posargs or ["tests/unit"]))


@session(tiers=["pr"], timeout_minutes=10, inputs=INPUTS)
def smoke(session: nox.Session) -> None:
    """Train on real data for seconds: one-batch overfit, its negative controls, schema, round trip.

    After --: arguments of pytest.
    """
    folder = environment.prepare(environment.of_cell(environment.default_cell()))
    _pytest(session, folder, *(session.posargs or ["tests/smoke"]))


@session(timeout_minutes=20, inputs=INPUTS, cells=_matrix())
def matrix(session: nox.Session, python_version: str, torch_version: str) -> None:
    """Run the unit and smoke tests on one cell of python x torch.

    A cell whose interpreter can't be had is skipped; with CI=true it fails.
    After --: arguments of pytest.
    """
    if not environment.has_interpreter(python_version):
        reason = f"Python {python_version} is not installed and uv could not install it"
        if environment.in_ci():
            session.error(f"{reason}; CI=true allows no skipped cell")
        session.skip(reason)
    folder = environment.prepare(environment.of_cell(Cell(python_version, torch_version)))
    _pytest(session, folder, *(session.posargs or ["tests/unit", "tests/smoke"]))


def _pytest(session: nox.Session, folder: Path, *arguments: str) -> None:
    environment.run(session, folder, "pytest", *_workers(arguments), *arguments, **_threads())


def _workers(arguments: Sequence[str]) -> list[str]:
    """Spread the tests over the cores, unless a debugger or the user's choice forbids it."""
    alone = {"--pdb", "--trace", "-s", "--collect-only", "-n", "--numprocesses"}
    if alone & {argument.split("=")[0] for argument in arguments}:
        return []
    return ["-n", str(os.cpu_count() or 1), "--dist=worksteal"]


def _threads() -> dict[str, str]:
    """Give each worker one thread: two workers with a thread per core each are slower than one."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

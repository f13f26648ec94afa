"""Sessions that run the tests, in the default cell and over the matrix."""

from pathlib import Path

import nox

from tasks.catalogue import Tier, session
from tasks.environments import environment
from tasks.project import PROJECT, ROOT, Cell

# What the tests of the model read, wherever they run.
_SMOKE = ("src", "configs", "tests/conftest.py", "tests/smoke")
_PACKAGES = (
    "tests/agreement.py",
    "tests/judged.py",
    "tests/registered.py",
    "tests/registries.py",
    "tests/repository.py",
    "tests/stand_in_osv.py",
    "tests/unit/conftest.py",
)
# Those of each package in src/, whichever there are.
_SUITES = (
    *(
        f"tests/unit/{each.name}"
        for each in sorted((ROOT / "src").iterdir())
        if (ROOT / "tests" / "unit" / each.name).is_dir()
    ),
    "tests/smoke",
)


def _matrix() -> dict[Cell, tuple[Tier, ...]]:
    """Return every cell with its tiers: both ends of the matrix on each PR, all of it nightly."""
    ends = {PROJECT.cells[0], PROJECT.cells[-1]}
    return {cell: ("pr", "nightly") if cell in ends else ("nightly",) for cell in PROJECT.cells}


# Every file: among the tests are those that hold for the repository as a whole.
@session(tiers=["pr"], timeout_minutes=15, inputs=["."])
def unit(session: nox.Session) -> None:
    """Run the unit tests and demand 90 % branch coverage.

    After --: arguments of pytest. A run of only some tests has no coverage to demand.
    """
    folder = environment.prepare_default_cell()
    coverage = [] if session.posargs else ["--cov", "--cov-report=term"]
    _pytest(session, folder, *_workers(session), *coverage, *(session.posargs or ["tests/unit"]))


@session(tiers=["pr"], timeout_minutes=10, inputs=_SMOKE, in_image=True)
def smoke(session: nox.Session) -> None:
    """Train on real data for seconds: one-batch overfit, its negative controls, schema, round trip.

    After --: arguments of pytest.
    """
    folder = environment.prepare_default_cell()
    # One process: the tests share what they import, and torch uses every core in each of them.
    _pytest(session, folder, *(session.posargs or ["tests/smoke"]))


@session(
    timeout_minutes=20,
    inputs=[*_SMOKE, *_PACKAGES, *_SUITES],
    cells=_matrix(),
    in_image=True,
)
def matrix(session: nox.Session, python_version: str, torch_version: str) -> None:
    """Run the unit and smoke tests of the packages on one cell of python x torch.

    The tests of the sessions themselves, which do not know torch, run in `unit` only.
    A cell whose interpreter can't be had is skipped; with CI=true it fails.
    After --: arguments of pytest.
    """
    if not environment.has_interpreter(python_version):
        reason = f"Python {python_version} is not installed and uv could not install it"
        if environment.in_ci():
            session.error(f"{reason}; CI=true allows no skipped cell")
        session.skip(reason)
    folder = environment.prepare(environment.of_cell(Cell(python_version, torch_version)))
    _pytest(session, folder, *_workers(session), *(session.posargs or _SUITES))


# Every file: it copies the repository and runs the workflows' own lines in the copy.
@session(tiers=["nightly"], timeout_minutes=45, inputs=["."])
def integration(session: nox.Session) -> None:
    """Run what needs several processes: kills and exact resume, torchrun, the workflows' lines.

    After --: arguments of pytest.
    """
    folder = environment.prepare_default_cell()
    _pytest(session, folder, *_workers(session), *(session.posargs or ["tests/integration"]))


def _pytest(session: nox.Session, folder: Path, *arguments: str) -> None:
    environment.run(session, folder, "pytest", *arguments)


def _workers(session: nox.Session) -> list[str]:
    """Spread a whole suite over the cores; a choice of tests runs in one process, for debuggers."""
    # Not their number, which differs between machines where the command should not.
    return [] if session.posargs else ["--numprocesses=logical", "--dist=worksteal"]

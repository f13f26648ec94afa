"""What the pyproject.toml files say: the packages, the interpreters and torch versions."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# What one session leaves and another takes, relative to the root.
LATEST = "outputs/latest.pt"
VERDICT = "artifacts/verdicts/evaluation.json"
SBOM = "artifacts/sbom.cdx.json"


@dataclass(frozen=True, order=True)
class Cell:
    """One combination of interpreter and torch, both as `major.minor`."""

    python: str
    torch: str

    def __str__(self) -> str:
        return f"py{self.python}-torch{self.torch}"


@dataclass(frozen=True)
class Project:
    """The versions that pyproject.toml supports, each oldest first.

    Args:
        pythons: the interpreters, from the trove classifiers.
        torches: the torch versions, from the packages' extras named `torch-MAJOR-MINOR`.
        default: the cell in which sessions run that need only one.
        package: the default project, as in `python -m PACKAGE.train`.
        baseline: the options of its command `eval` that name the model in production.
        model: the name under which the registry keeps the project's models.
        runners: the labels of the machine that each kind of runner is, on GitHub.
    """

    pythons: tuple[str, ...]
    torches: tuple[str, ...]
    default: Cell
    package: str
    baseline: tuple[str, ...]
    model: str
    runners: Mapping[str, list[str]]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The whole matrix, oldest cell first."""
        return tuple(Cell(python, torch) for python in self.pythons for torch in self.torches)


def read(pyproject: Path = ROOT / "pyproject.toml") -> Project:
    """Return what `pyproject` supports."""
    table: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    prefix = "Programming Language :: Python :: "
    pythons = (
        classifier.removeprefix(prefix)
        for classifier in table["project"]["classifiers"]
        if classifier.startswith(f"{prefix}3.")
    )
    torches = {
        extra.removeprefix("torch-").replace("-", ".")
        for member in members(pyproject.parent)
        for extra in project_table(member).get("optional-dependencies", {})
        if re.fullmatch(r"torch-\d+-\d+", extra)
    }
    tasks = table["tool"]["tasks"]
    own = tasks_table(pyproject.parent / "src" / tasks["default-project"])
    return Project(
        pythons=tuple(sorted(pythons, key=_numbers)),
        torches=tuple(sorted(torches, key=_numbers)),
        default=Cell(tasks["default-python"], tasks["default-torch"]),
        package=tasks["default-project"],
        baseline=tuple(own["baseline"]),
        model=own["model"],
        runners=tasks["runners"],
    )


def members(root: Path = ROOT) -> list[Path]:
    """Return the folders of the workspace's packages, by their names."""
    return sorted(file.parent for file in (root / "src").glob("*/pyproject.toml"))


def is_project(folder: Path) -> bool:
    """Whether the package in `folder` is a project: its pyproject.toml has a table tool.tasks."""
    return bool(tasks_table(folder))


def tasks_table(folder: Path) -> dict[str, Any]:
    """Return the table `tool.tasks` of the package in `folder`; empty if it is no project."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text).get("tool", {}).get("tasks", {})
    return table


def project_table(folder: Path) -> dict[str, Any]:
    """Return the table `project` of the pyproject.toml in `folder`."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def torch_index(root: Path = ROOT) -> str | None:
    """Return where torch comes from, if [tool.tasks] names a place: an address or a folder."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    place: str | None = table["tool"].get("tasks", {}).get("torch-index")
    return place if place is None or "://" in place else str(root / place)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


PROJECT = read()

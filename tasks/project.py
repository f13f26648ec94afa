"""What the pyproject.toml files declare: packages, projects, interpreters and torch versions."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import abort

ROOT = Path(__file__).resolve().parent.parent
_TORCH_EXTRA = r"torch-\d+-\d+"


@dataclass(frozen=True, order=True)
class Cell:
    """One combination of interpreter and torch, both as `major.minor`; torch may be None."""

    python: str
    torch: str | None = None

    def __str__(self) -> str:
        return f"py{self.python}-torch{self.torch}" if self.torch else f"py{self.python}"


@dataclass(frozen=True, kw_only=True)
class Project:
    """A package that trains a model; its pyproject.toml has a table `tool.tasks`.

    Every path is relative to the root.

    Args:
        package: its name, as in `python -m PACKAGE.train`.
        model: the name of its models in the registry.
        checkpoint: the file name of a model.
        baseline: the options of its `eval` command that name the model in production.
        is_default: whether its files are directly in `configs`, `outputs` and `artifacts`, not in
            a subfolder with its name.
    """

    package: str
    model: str
    checkpoint: str
    baseline: tuple[str, ...]
    is_default: bool

    def _folder(self, parent: str) -> str:
        return parent if self.is_default else f"{parent}/{self.package}"

    @property
    def configs(self) -> str:
        """The folder of its configuration files."""
        return self._folder("configs")

    @property
    def policy(self) -> str:
        """The limits for its models: the project's file if it has one, or the repository's."""
        own = f"{self.configs}/gates.yaml"
        return own if (ROOT / own).exists() else "configs/gates.yaml"

    @property
    def card(self) -> str:
        """The parts of its model card that a person writes."""
        return f"{self.configs}/model_card.yaml"

    @property
    def outputs(self) -> str:
        """The folder of its runs."""
        return self._folder("outputs")

    @property
    def latest(self) -> str:
        """The link to its newest checkpoint."""
        return f"{self.outputs}/latest{Path(self.checkpoint).suffix}"

    @property
    def artifacts(self) -> str:
        """The folder in which its sessions leave files for people and other jobs."""
        return self._folder("artifacts")

    @property
    def verdict(self) -> str:
        """The verdict of the evaluation gate on its newest model."""
        return f"{self.artifacts}/verdicts/evaluation.json"

    @property
    def sbom(self) -> str:
        """Its software bill of materials."""
        return f"{self.artifacts}/sbom.cdx.json"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What the pyproject.toml files declare; versions are oldest first.

    Args:
        pythons: the interpreters, from the trove classifiers.
        torches: the torch versions, from the packages' extras named `torch-MAJOR-MINOR`.
        default: the cell for sessions that need only one.
        packages: the folders of src/, by name.
        projects: the packages that train a model, the default one first.
        runners: the labels of each kind of runner on GitHub.
    """

    pythons: tuple[str, ...]
    torches: tuple[str, ...]
    default: Cell
    packages: tuple[str, ...]
    projects: tuple[Project, ...]
    runners: Mapping[str, list[str]]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The whole matrix, oldest cell first."""
        return tuple(Cell(python, torch) for python in self.pythons for torch in self.torches)

    @property
    def default_project(self) -> Project:
        """The project that a session runs for if the arguments name none."""
        return self.projects[0]

    def project(self, package: str) -> Project:
        """Return the project in `package`."""
        return next(each for each in self.projects if each.package == package)


def read(root: Path = ROOT) -> Workspace:
    """Return what the pyproject.toml files below `root` declare.

    Raises:
        SystemExit: with exit code 2 and one line, if the default project does not exist.
    """
    table = pyproject(root)
    prefix = "Programming Language :: Python :: 3."
    pythons = {
        f"3.{classifier.removeprefix(prefix)}"
        for classifier in table["project"]["classifiers"]
        if classifier.startswith(prefix)
    }
    folders = members(root)
    torches = {
        extra.removeprefix("torch-").replace("-", ".")
        for folder in folders
        for extra in project_table(folder).get("optional-dependencies", {})
        if re.fullmatch(_TORCH_EXTRA, extra)
    }
    tasks = table["tool"]["tasks"]
    default = tasks["default-project"]
    projects = [_project(folder, default) for folder in folders if is_project(folder)]
    if not any(each.is_default for each in projects):
        available = ", ".join(each.package for each in projects) or "none"
        abort(
            f"pyproject.toml: default-project is {default!r}, which is not a project in src/; "
            f"write one of: {available}"
        )
    return Workspace(
        pythons=tuple(sorted(pythons, key=_numbers)),
        torches=tuple(sorted(torches, key=_numbers)),
        default=Cell(tasks["default-python"], tasks["default-torch"]),
        packages=tuple(folder.name for folder in folders),
        projects=tuple(sorted(projects, key=lambda each: (not each.is_default, each.package))),
        runners=tasks["runners"],
    )


def _project(folder: Path, default: str) -> Project:
    table = tasks_table(folder)
    missing = [key for key in ("model", "checkpoint", "baseline") if key not in table]
    if missing:
        abort(
            f"src/{folder.name}/pyproject.toml: [tool.tasks] has no {', '.join(missing)}; "
            "see another project's src/*/pyproject.toml"
        )
    return Project(
        package=folder.name,
        model=table["model"],
        checkpoint=table["checkpoint"],
        baseline=tuple(table["baseline"]),
        is_default=folder.name == default,
    )


def pyproject(folder: Path = ROOT) -> dict[str, Any]:
    """Return the content of the pyproject.toml in `folder`."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def members(root: Path = ROOT) -> list[Path]:
    """Return the folders of the workspace's packages, sorted by name."""
    return sorted(file.parent for file in (root / "src").glob("*/pyproject.toml"))


def is_project(folder: Path) -> bool:
    """Whether the package in `folder` trains a model."""
    return bool(tasks_table(folder))


def tasks_table(folder: Path) -> dict[str, Any]:
    """Return the table `tool.tasks` of the package in `folder`; empty if it has none."""
    table: dict[str, Any] = pyproject(folder).get("tool", {}).get("tasks", {})
    return table


def project_table(folder: Path) -> dict[str, Any]:
    """Return the table `project` of the pyproject.toml in `folder`."""
    table: dict[str, Any] = pyproject(folder)["project"]
    return table


def needed_members(package: str, root: Path = ROOT) -> list[str]:
    """Return the workspace packages that `package` requires, directly or through another."""
    names = {folder.name for folder in members(root)}
    found: set[str] = set()
    for requirement in _requirements(package, root):
        name = re.split(r"[^\w.-]", requirement)[0].replace("-", "_")
        if name in names - {package}:
            found |= {name, *needed_members(name, root)}
    return sorted(found)


def needs_torch(package: str, root: Path = ROOT) -> bool:
    """Whether `package` requires torch, directly or through another package's `torch` extra."""
    return any(
        re.match(r"torch\b(?!-)|\w+\[torch\]", each) for each in _requirements(package, root)
    )


def extras_of(package: str, root: Path = ROOT) -> list[str]:
    """Return the extras of `package`, except those that select a torch version."""
    extras = project_table(root / "src" / package).get("optional-dependencies", {})
    return [name for name in extras if not re.fullmatch(_TORCH_EXTRA, name)]


def groups_of(folder: Path) -> list[str]:
    """Return the dependency groups that the pyproject.toml in `folder` defines."""
    return [*pyproject(folder).get("dependency-groups", {})]


def _requirements(package: str, root: Path) -> list[str]:
    """Return the requirements that a package declares, including those of its extras."""
    table = project_table(root / "src" / package)
    extras = table.get("optional-dependencies", {}).values()
    return [*table.get("dependencies", []), *(each for extra in extras for each in extra)]


def torch_index(root: Path = ROOT) -> str | None:
    """Return the URL or folder that [tool.tasks] torch-index names, or None."""
    index: str | None = tasks_table(root).get("torch-index")
    return index if index is None or "://" in index else str(root / index)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


WORKSPACE = read()

"""A project as the library sees it: what each has to say, and nothing that two would share."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, cast

from gates.evaluation.predictions import Predictions
from gates.evidence.provenance import Attempt
from training.config import Config, DataConfig
from training.group import Group
from training.run import Run, Seen

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Settings(Generic[Config]):
    """What the commands must know of a project before they import anything heavy.

    Args:
        package: its name, as in `python -m PACKAGE.train`; `PACKAGE.project.PROJECT` is the rest.
        config: the class of its configurations.
        configs: the folder of its configuration files: `configs` for the repository's default
            project, `configs/PACKAGE` for any other.
    """

    package: str
    config: type[Config]
    configs: Path

    @property
    def defaults(self) -> Path:
        """The configuration that says where the project's data is.

        What a checkpoint or a provenance says about that is only compared with it: whoever wrote
        the file could name any address and any folder.
        """
        return self.configs / "base.yaml"

    @property
    def policy(self) -> Path:
        """The limits that its models are judged by: its own file, or else the repository's."""
        own = self.configs / "gates.yaml"
        return own if own.exists() else Path("configs/gates.yaml")

    @property
    def outputs(self) -> Path:
        """The folder of its runs: `outputs`, or `outputs/PACKAGE` beside the default project's."""
        return Path("outputs", *self.configs.parts[1:])

    @property
    def project(self) -> "Project[Config, Any]":
        """The project itself, which may take seconds to import."""
        module = importlib.import_module(f"{self.package}.project")
        return cast("Project[Config, Any]", module.PROJECT)


class Method(ABC, Generic[Config, Seen]):
    """How models are trained: by torch's loop, or by a library that does it in one call.

    Args:
        library: what models are built with, as the Hugging Face Hub calls it: `pytorch`, `sklearn`.
        checkpoint: the name of the file that a model is kept in: `checkpoint` and the suffix of its
            format.
        can_resume: whether a run that was interrupted can go on.
    """

    library: str
    checkpoint: str
    can_resume: bool

    def check(self, *, run_id: str | None, resume: bool) -> None:
        """Refuse what a method cannot do with a run of that name, before anything is made."""

    @abstractmethod
    def joined(self, config: Config) -> AbstractContextManager[Group]:
        """Join the processes that train together, if there are several, for this block."""

    @abstractmethod
    def configure(self, config: Config) -> dict[str, str]:
        """Seed the generators and choose algorithms; return what was set, for the provenance."""

    @abstractmethod
    def train(self, run: Run[Config, Seen]) -> Sequence[Attempt]:
        """Train the run from its current state to the end and leave its checkpoint.

        Returns:
            The run's attempts, this one last.
        """

    @abstractmethod
    def config_of(self, checkpoint: Path) -> Config:
        """Return the configuration that the model in `checkpoint` was trained with.

        Raises:
            CheckpointError: the file is no checkpoint of this method that can be read.
        """


@dataclass(frozen=True, kw_only=True)
class Project(Generic[Config, Seen]):
    """A project.

    Args:
        settings: what its commands know of it.
        examples: returns the examples of a split that a run on a configuration sees; the last
            argument is what an error names as the place of the configuration.
        data_files: the local files of the data, which nothing may overwrite.
        method: how its models are trained.
        predict: what the model in a checkpoint predicts for examples.
        write_scores: writes figures and pictures of predictions into a folder.
        score_files: the files that it writes there.
        tolerance: by how much the probabilities of one model may differ between two processors.
    """

    settings: Settings[Config]
    examples: Callable[[Config, Split, str], Seen]
    data_files: Callable[[DataConfig], list[Path]]
    method: Method[Config, Any]
    predict: Callable[[Path, Seen], Predictions]
    write_scores: Callable[[Predictions, Path], None]
    score_files: Callable[[Path], tuple[Path, ...]]
    tolerance: float = 1e-3

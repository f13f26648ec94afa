"""What every project must define; code that projects share is elsewhere in this package."""

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
from training.run import ExamplesT, Run

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Settings(Generic[Config]):
    """What the commands need to know about a project before they import anything heavy.

    Args:
        package: its name, as in `python -m PACKAGE.train`; the `Project` itself is
            `PACKAGE.project.PROJECT`.
        config: its configuration class.
        configs: the folder of its configuration files: `configs` for the repository's default
            project, `configs/PACKAGE` for any other.
    """

    package: str
    config: type[Config]
    configs: Path

    @property
    def defaults(self) -> Path:
        """The configuration that names the project's data.

        The data location in a checkpoint or a provenance is only compared with it, never opened:
        such a file may come from elsewhere and name any address or folder.
        """
        return self.configs / "base.yaml"

    @property
    def policy(self) -> Path:
        """The file with the limits for its models: the project's, or else the repository's."""
        own = self.configs / "gates.yaml"
        return own if own.exists() else Path("configs/gates.yaml")

    @property
    def outputs(self) -> Path:
        """The folder for its runs: `outputs` for the default project, else `outputs/PACKAGE`."""
        return Path("outputs", *self.configs.parts[1:])

    @property
    def project(self) -> "Project[Config, Any]":
        """The project itself, which may take seconds to import."""
        module = importlib.import_module(f"{self.package}.project")
        return cast("Project[Config, Any]", module.PROJECT)


class Method(ABC, Generic[Config, ExamplesT]):
    """How models are trained: by the PyTorch loop, or by a library that does it in one call.

    Args:
        library: the Hugging Face Hub's name for the library models are built with, such as
            `pytorch` or `sklearn`.
        checkpoint: the name of a model's file: `checkpoint` with the suffix of its format.
        can_resume: whether an interrupted run can be resumed.
    """

    library: str
    checkpoint: str
    can_resume: bool

    def check(self, *, run_id: str | None, resume: bool) -> None:
        """Refuse a request the method cannot fulfil, before any file is written."""

    @abstractmethod
    def joined(self, config: Config) -> AbstractContextManager[Group]:
        """Join the group of processes that train together while the block runs."""

    @abstractmethod
    def configure(self, config: Config) -> dict[str, str]:
        """Seed the generators and choose algorithms; return these settings for the provenance."""

    @abstractmethod
    def train(self, run: Run[Config, ExamplesT]) -> Sequence[Attempt]:
        """Train the run from its current state to the end and write its checkpoint.

        Returns:
            The run's attempts, this one last.
        """

    @abstractmethod
    def config_of(self, checkpoint: Path) -> Config:
        """Return the configuration that the model in `checkpoint` was trained with.

        Raises:
            CheckpointError: the file is not a readable checkpoint of this method.
        """


@dataclass(frozen=True, kw_only=True)
class Project(Generic[Config, ExamplesT]):
    """A project.

    Args:
        settings: what its commands need before they import anything heavy.
        examples: returns the examples of a split for a configuration; the last argument says
            where the configuration comes from, for error messages.
        data_files: returns the local files of the data, which must not be overwritten.
        method: how its models are trained.
        predict: returns the predictions of the model in a checkpoint.
        write_scores: writes scores and plots of predictions into a folder.
        score_files: returns the files that `write_scores` may write there.
        tolerance: largest difference allowed between the probabilities that one model predicts on
            two processors.
    """

    settings: Settings[Config]
    examples: Callable[[Config, Split, str], ExamplesT]
    data_files: Callable[[DataConfig], list[Path]]
    method: Method[Config, Any]
    predict: Callable[[Path, ExamplesT], Predictions]
    write_scores: Callable[[Predictions, Path], None]
    score_files: Callable[[Path], tuple[Path, ...]]
    tolerance: float = 1e-3

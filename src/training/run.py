"""The run in progress, as a training method sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from gates.configuration import flat
from gates.errors import ConfigError
from gates.evidence.provenance import Attempt, SourceState
from gates.files import atomic_write
from training import config as configs
from training.config import Config, RunConfig
from training.group import Group
from training.progress import Display


class Examples(Protocol):
    """The examples of one split, in memory; each project chooses the form."""

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        """(n_examples,) unique identifiers."""

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file the examples come from."""

    def __len__(self) -> int:
        """Return the number of examples."""


ExamplesT = TypeVar("ExamplesT", bound=Examples)


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Config, ExamplesT]):
    """A run in progress, as seen from one of its processes.

    Args:
        project: the project's package.
        config: everything the run depends on besides the code.
        folder: the run's folder.
        checkpoint: where to write the model.
        training: the examples to learn from.
        validation: the examples to monitor the model on.
        group: the processes that train together.
        display: prints the run's output.
        source: the state of the source code.
        started: when this attempt began.
        needs_clean_tree: whether to refuse uncommitted source.
    """

    project: str
    config: Config
    folder: Path
    checkpoint: Path
    training: ExamplesT
    validation: ExamplesT
    group: Group
    display: Display
    source: SourceState
    started: datetime
    needs_clean_tree: bool = False

    def begin(self) -> None:
        """Write config.yaml, the first file of every run."""
        with atomic_write(self.folder / "config.yaml") as stream:
            stream.write(configs.dump(self.config))

    def attempt(self, first_step: int, runtime: Mapping[str, str]) -> Attempt:
        """Return this attempt at the run, for its provenance.

        Args:
            first_step: steps taken before this attempt.
            runtime: versions and hardware that can change a result.
        """
        return Attempt(
            first_step=first_step, started=self.started, source=self.source, runtime=dict(runtime)
        )


def check_same(before: RunConfig, now: RunConfig, where: Path) -> None:
    """Raise a `ConfigError` unless a run is resumed with the configuration it began with."""
    requested = flat(now.model_dump())
    changes = [
        f"{key} is {value} in this run, but {requested[key]} was requested"
        for key, value in flat(before.model_dump()).items()
        if value != requested[key]
    ]
    if changes:
        msg = f"{where}: {'; '.join(changes)}; resume with the same configuration, or choose "
        msg += "another --run-id"
        raise ConfigError(msg)

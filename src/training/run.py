"""A run under way, as the method that trains sees it."""

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
    """The examples of one split, in memory; a project decides in which form."""

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        """(n_examples,) unique names."""

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file that they come from."""

    def __len__(self) -> int:
        """Return how many there are."""


Seen = TypeVar("Seen", bound=Examples)


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Config, Seen]):
    """A run under way, as one of its processes sees it.

    Args:
        project: the package that is trained.
        config: all that the run depends on besides the code.
        folder: its own.
        checkpoint: where its model goes.
        training: the examples that it learns from.
        validation: the examples that it is watched on.
        group: the processes that train together.
        display: says how it goes.
        source: the source that it runs from.
        started: when this attempt began.
        needs_clean_tree: whether source that no commit describes is refused.
    """

    project: str
    config: Config
    folder: Path
    checkpoint: Path
    training: Seen
    validation: Seen
    group: Group
    display: Display
    source: SourceState
    started: datetime
    needs_clean_tree: bool = False

    def begin(self) -> None:
        """Write the configuration, with which every run begins."""
        with atomic_write(self.folder / "config.yaml") as stream:
            stream.write(configs.dump(self.config))

    def attempt(self, first_step: int, runtime: Mapping[str, str]) -> Attempt:
        """Return this part of the run, for its provenance.

        Args:
            first_step: steps that were taken before it.
            runtime: the versions and the hardware that can change a result.
        """
        return Attempt(
            first_step=first_step, started=self.started, source=self.source, runtime=dict(runtime)
        )


def check_same(before: RunConfig, now: RunConfig, where: Path) -> None:
    """Raise a `ConfigError` unless a run is resumed with the configuration that it began with."""
    asked = flat(now.model_dump())
    changes = [
        f"{key} is {value} in this run, and {asked[key]} is asked for"
        for key, value in flat(before.model_dump()).items()
        if value != asked[key]
    ]
    if changes:
        msg = f"{where}: {'; '.join(changes)}; resume with the same configuration, or choose "
        msg += "another --run-id"
        raise ConfigError(msg)

"""Trains a run in one process and one call, as scikit-learn does, without snapshots."""

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic

import numpy as np

from gates.errors import GateInputError, TrainingError
from gates.evidence import provenance
from gates.evidence.provenance import Attempt
from gates.files import atomic_write
from training import tracking
from training.config import Config
from training.group import Group
from training.metrics import Metrics
from training.project import Method
from training.run import ExamplesT, Run


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model.

    Args:
        content: the bytes of its file.
        history: the metrics of each step, by name; one of them is `loss`.
    """

    content: bytes
    history: Sequence[Mapping[str, float]]


class OneProcessMethod(Method[Config, ExamplesT], Generic[Config, ExamplesT]):
    """Trains in one process and one call.

    A project implements `fit`, which trains, and `config_of`, which reads the configuration back.

    Args:
        packages: packages that can change a result; the provenance records their versions.
    """

    packages: tuple[str, ...]
    can_resume = False

    @abstractmethod
    def fit(self, run: Run[Config, ExamplesT]) -> Fitted:
        """Train on `run.training` and monitor on `run.validation`, without writing a file."""

    def check(self, *, run_id: str | None, resume: bool) -> None:  # noqa: ARG002 - the base's
        """Refuse to run in several processes: each would train the same model."""
        count = os.environ.get("WORLD_SIZE", "1")
        if count != "1":
            msg = f"torchrun has started {count} processes, but this project trains in one; start "
            msg += "it with python -m"
            raise GateInputError(msg)

    def joined(self, config: Config) -> AbstractContextManager[Group]:  # noqa: ARG002 - the base's
        """Return a group of one."""
        return contextlib.nullcontext(Group())

    def configure(self, config: Config) -> dict[str, str]:
        """Return the seed, which `fit` must use; no global generator is seeded."""
        return {"seed": str(config.seed)}

    def train(self, run: Run[Config, ExamplesT]) -> list[Attempt]:
        """Train, write metrics.jsonl and the checkpoint, and return the only attempt."""
        run.begin()
        run.display.line(f"{run.folder}: {len(run.training):,} training examples, 1 x cpu")
        started = time.monotonic()
        with tracking.tracked(run.config, run.project, run.folder.name, run.display.line) as track:
            fitted = self.fit(run)
            metrics = Metrics(run.folder / "metrics.jsonl", 0, run.display.line)
            seconds = round(time.monotonic() - started, 3)
            for line in _lines(fitted.history):
                metrics.write({**line, "seconds": seconds})
                track(line)
        last = {name: f"{value:.4f}" for name, value in fitted.history[-1].items()}
        summary = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in last.items())
        run.display.line(f"step {len(fitted.history)}: {summary}")
        with atomic_write(run.checkpoint) as stream:
            stream.write(fitted.content)
        versions = {name: metadata.version(name) for name in self.packages}
        return [run.attempt(0, {**provenance.machine(), **versions})]


def _lines(history: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics.jsonl.

    Raises:
        TrainingError: a metric is not finite.
    """
    for step, metrics in enumerate(history, start=1):
        for name, value in metrics.items():
            if not np.isfinite(value):
                msg = f"step {step}: {name} is {value}; check the training data"
                raise TrainingError(msg)
        yield {"step": step, "epoch": 1, "ends_epoch": step == len(history), **metrics}

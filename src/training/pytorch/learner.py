"""What the loop must know of a project: its model, its loss, and how its examples are changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, device, nn

from training.config import TorchConfig

Torch = TypeVar("Torch", bound=TorchConfig)

Batch = tuple[Tensor, ...]
"""Rows of each of an example's tensors: what a loss takes."""

EVALUATION_BATCH = 1024  # examples in one forward pass


class TensorExamples(Protocol):
    """The examples of one split, as tensors."""

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        """(n_examples,) unique names."""

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file that they come from."""

    @property
    def tensors(self) -> Batch:
        """Each (n_examples, …), such as inputs and targets."""

    def __len__(self) -> int:
        """Return how many there are."""


class Draws(Protocol):
    """What was drawn at random for the examples of a batch, a row for each."""

    def of(self, rows: Tensor) -> Self:
        """Return what was drawn for some rows of the batch."""

    def to(self, place: device) -> Self:
        """Return the same on another device."""

    def needed(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Return the indices of the examples that `rows` of `batch` are made from."""

    def applied(self, batch: Batch) -> Batch:
        """Return the examples, changed."""


def nothing_drawn(config: TorchConfig, seeds: tuple[int, int], size: int) -> None:  # noqa: ARG001
    """Leave examples as they are."""
    return


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model is watched by after each epoch: the mean of a quantity of each example.

    Args:
        name: what metrics.jsonl calls it, as `validation_NAME`.
        better: which direction is better.
        of: the quantity, (rows,), for a model and a batch.
        batch_size: examples in one forward pass; fewer where each takes much memory.
    """

    name: str
    better: Literal["higher", "lower"]
    of: Callable[[nn.Module, Batch], Tensor]
    batch_size: int = EVALUATION_BATCH


@dataclass(frozen=True, kw_only=True)
class Learner(Generic[Torch]):
    """What is learned, and how far it is from that.

    Args:
        build_model: returns an untrained model.
        loss: of each example of a batch, (rows,), under autocast where the run asks for bfloat16.
        score: what the model is watched by.
        draw: for a configuration, two seeds and the size of a batch, what changes its examples;
            None for nothing. It must depend on these alone: then it is the same for however many
            processes and parts, and after a run was resumed.
    """

    build_model: Callable[[Torch], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Score
    draw: Callable[[Torch, tuple[int, int], int], Draws | None] = nothing_drawn

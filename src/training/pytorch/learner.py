"""What the loop needs from a project: the model, the loss, the score and the augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, device, nn

from training.config import TorchConfig

Torch = TypeVar("Torch", bound=TorchConfig)

Batch = tuple[Tensor, ...]
"""The same rows of each tensor in `TensorExamples.tensors`; the input of a loss."""

EVALUATION_BATCH = 1024  # examples in one forward pass


class TensorExamples(Protocol):
    """The examples of one split, as tensors."""

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        """(n_examples,) unique identifiers."""

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file the examples come from."""

    @property
    def tensors(self) -> Batch:
        """Tensors (n_examples, …), such as inputs and targets."""

    def __len__(self) -> int:
        """Return the number of examples."""


class Draws(Protocol):
    """Random numbers that augment a batch, with a row for each example."""

    def of(self, rows: Tensor) -> Self:
        """Return the draws for some rows of the batch."""

    def to(self, place: device) -> Self:
        """Return the draws on another device."""

    def needed(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Return the indices of all examples needed to augment `rows` of `batch`."""

    def applied(self, batch: Batch) -> Batch:
        """Return the augmented examples."""


def no_augmentation(config: TorchConfig, seeds: tuple[int, int], size: int) -> None:  # noqa: ARG001
    """Draw nothing, which leaves examples unchanged."""
    return


@dataclass(frozen=True, kw_only=True)
class Score:
    """A validation metric, computed after each epoch as a mean over examples.

    Args:
        name: metrics.jsonl has it as `validation_NAME`.
        better: which direction is better.
        of: returns the score of each example, (rows,), for a model and a batch.
        batch_size: examples in one forward pass; smaller if each takes much memory.
    """

    name: str
    better: Literal["higher", "lower"]
    of: Callable[[nn.Module, Batch], Tensor]
    batch_size: int = EVALUATION_BATCH


@dataclass(frozen=True, kw_only=True)
class Learner(Generic[Torch]):
    """The model, the loss, the score and the augmentation of a project.

    Args:
        build_model: returns an untrained model.
        loss: returns the loss of each example, (rows,); called under autocast if the run uses
            bfloat16.
        score: the validation metric.
        draw: returns random numbers to augment a batch, or None to leave it unchanged. They must
            depend only on the arguments (configuration, two seeds, batch size), so that they are
            the same with any number of processes and micro-batches, and after a resume.
    """

    build_model: Callable[[Torch], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Score
    draw: Callable[[Torch, tuple[int, int], int], Draws | None] = no_augmentation

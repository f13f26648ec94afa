"""The work that every contender does: one model, one optimiser, one order of the examples."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler, TensorDataset

from training.pytorch import loop

from my_project.config import RunConfig
from my_project.data import Examples
from my_project.learner import LEARNER


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained on what.

    Args:
        config: all that the result depends on.
        examples: the training split, in memory.
    """

    config: RunConfig
    examples: Examples

    @property
    def steps(self) -> int:
        """The optimiser steps of the whole training."""
        train = self.config.train
        return loop.batches_in(len(self.examples), train.batch_size) * train.epochs

    def model(self) -> nn.Module:
        """Return the untrained model."""
        return loop.new_model(LEARNER, self.config)

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser that this project uses, over the parameters of `model`."""
        return loop.new_trainer(model, self.config.train).optimizer

    def schedule(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """Return this project's learning rates as a scheduler, which is stepped at each step."""
        train = self.config.train

        def share(step: int) -> float:
            return loop.learning_rate(step, self.steps, train) / train.lr

        return LambdaLR(optimizer, share)

    def batches(self) -> "DataLoader[tuple[Tensor, ...]]":
        """Return a loader of whole batches, one epoch at each iteration.

        A batch is taken from memory by one indexing. What most tutorials show takes the
        examples one by one and stacks them, which would slow the peers down.
        """
        dataset = _InMemory(self.examples.images, self.examples.labels)
        return DataLoader(dataset, batch_sampler=_EpochOrder(self), collate_fn=_as_it_is)


@dataclass
class Record:
    """What happened at each step, written by the contender right after it."""

    ended: list[float] = field(default_factory=list)
    cpu_ended: list[float] = field(default_factory=list)
    losses: list[Tensor | float] = field(default_factory=list)

    def step(self, loss: Tensor | float) -> None:
        """Note that a step has ended which began with `loss`."""
        # Turned into a number only afterwards: reading a tensor is work.
        self.losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        self.ended.append(time.perf_counter())
        self.cpu_ended.append(time.process_time())

    def steps_per_second(self, warm_up: int) -> float:
        """Return the rate of the steps after the first `warm_up`."""
        return (len(self.ended) - warm_up) / (self.ended[-1] - self.ended[warm_up - 1])

    def cpu_ms_per_step(self, warm_up: int) -> float:
        """Return the processor's time for each of the same steps, of all threads together.

        Other people's work on the same cores does not count in it, so it shows a difference
        that the noise of a shared machine hides.
        """
        steps = len(self.cpu_ended) - warm_up
        return 1000 * (self.cpu_ended[-1] - self.cpu_ended[warm_up - 1]) / steps


class _InMemory(TensorDataset):
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        """Return a whole batch; DataLoader asks for it where a data set has this method."""
        return tuple(tensor[indices] for tensor in self.tensors)


def _as_it_is(batch: Any) -> Any:
    return batch


class _EpochOrder(Sampler[list[int]]):
    """The indices of each batch of an epoch, the next epoch's at the next iteration."""

    def __init__(self, work: Work) -> None:
        train = work.config.train
        # Private to the training loop, but losses can be compared only in its own order.
        self._order = loop._Order(  # noqa: SLF001
            len(work.examples), train.batch_size, work.config.seed
        )
        self._steps = iter(range(work.steps))

    def __len__(self) -> int:
        return loop.batches_in(self._order.examples, self._order.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(len(self)):
            yield self._order.batch(next(self._steps)).tolist()

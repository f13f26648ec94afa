"""The training loop: AdamW, warm-up and cosine, the same curve on any number of processes.

The order of the examples and the learning rate are functions of the step number, so an
interrupted run continues exactly where it stopped.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gates.errors import TrainingError
from training.config import TrainConfig
from training.pytorch.learner import Batch, Draws, Learner, TensorExamples, Torch
from training.pytorch.processes import Processes, device_of
from training.pytorch.selection import Selection

MicroBatch = tuple[Tensor, Draws | None]  # indices of the examples, and their augmentation


@dataclass
class Trainer:
    """A model in training: everything a step changes.

    Args:
        model: the model to train; it may be distributed over several processes.
        optimizer: AdamW over its parameters.
        step: optimiser steps taken so far.
        selection: the best epoch so far, if the run selects one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    selection: Selection | None = None


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The results of one optimiser step.

    Args:
        step: counted from 1.
        epoch: counted from 1.
        ends_epoch: whether this is the last step of its epoch.
        loss: the mean over the global batch, before the step.
        lr: learning rate.
        gradient_norm: norm of the gradient over all parameters, before clipping.
    """

    step: int
    epoch: int
    ends_epoch: bool
    loss: float
    lr: float
    gradient_norm: float


def new_model(learner: Learner[Torch], config: Torch) -> nn.Module:
    """Return an untrained model; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    return learner.build_model(config).to(device_of(config.train))


def new_trainer(model: nn.Module, config: TrainConfig) -> Trainer:
    """Return `model` with a new optimiser."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    return Trainer(model, optimizer)


def fit(
    trainer: Trainer,
    examples: TensorExamples,
    config: Torch,
    learner: Learner[Torch],
    *,
    processes: Processes | None = None,
    on_step: Callable[[StepReport], bool | None] = lambda _: None,
) -> None:
    """Train from the trainer's step to the end of the last epoch, or until `on_step` stops it.

    Args:
        trainer: changed in place.
        examples: the training examples; each epoch uses all of them.
        config: the configuration; its seed decides the order of the examples.
        learner: the loss and the augmentation.
        processes: the processes that train together; None for this one alone.
        on_step: called after each step in every process; training stops when it returns True,
            which it must do in all processes at the same step.

    Raises:
        TrainingError: a loss, a gradient or a weight is not finite.
    """
    train = config.train
    processes = processes or Processes(rank=0, count=1, device=device_of(train))
    steps_per_epoch = batches_in(len(examples), train.batch_size)
    steps = steps_per_epoch * train.epochs
    # Loading runs ahead of training and `_Order` caches one epoch, so each has its own.
    order, loading = (_Order(len(examples), train.batch_size, config.seed) for _ in range(2))
    remaining = range(trainer.step, steps)
    micro_batches = _micro_batches(loading, remaining, config, learner, processes)
    batches = _load(examples, micro_batches, config.data.workers, processes.device)
    _keep_freed_memory()
    trainer.model.train()
    for step in remaining:
        indices = order.batch(step)
        lr = learning_rate(step, steps, train)
        # Read the loss before the update: a loss that is not finite then does not damage the
        # weights, and the GPU updates them while the CPU prepares the next step.
        gradients = _Gradients(learner, trainer, train, processes)
        loss, norm = gradients.compute(batches, len(indices))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            ids = ", ".join(examples.ids[indices.numpy()])
            msg = f"step {step + 1}: loss {loss}, gradient norm {norm}; lower train.lr, or check "
            msg += f"the examples in the batch: {ids}"
            raise TrainingError(msg)
        _change_weights(trainer, lr)
        trainer.step = step + 1
        report = StepReport(
            step=trainer.step,
            epoch=step // steps_per_epoch + 1,
            ends_epoch=trainer.step % steps_per_epoch == 0,
            loss=loss,
            lr=lr,
            gradient_norm=norm,
        )
        if on_step(report):
            break
    _check_finite(trainer.model)


def _keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees, for the next step.

    The amount it keeps grows with the largest block ever freed (M_MMAP_THRESHOLD in mallopt(3), at
    most 32 MiB). Otherwise each step on a CPU may return its memory to the kernel and fault it back
    in page by page, which takes 6 % of the time of configs/base.yaml.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8)


def batches_in(examples: int, batch_size: int) -> int:
    """Return the number of batches in an epoch; the last may be smaller."""
    return math.ceil(examples / batch_size)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate of `step`: linear warm-up, then a half cosine down to zero."""
    warmup = round(steps * config.warmup_share)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Order:
    """The order of the examples: reshuffled in each epoch, by the seed and the epoch only."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def batch(self, step: int) -> Tensor:
        """Return the indices for `step`, (batch_size,); fewer in the last batch of an epoch."""
        epoch, position = divmod(step, batches_in(self.examples, self.batch_size))
        if epoch != self._epoch:
            # Not seed + epoch: the second epoch of one seed would be the first of the next.
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            shuffled = torch.randperm(self.examples, generator=generator)
            self._epoch, self._batches = epoch, shuffled.split(self.batch_size)
        return self._batches[position]


def _micro_batches(
    order: _Order, steps: range, config: Torch, learner: Learner[Torch], processes: Processes
) -> Iterator[MicroBatch]:
    """Yield this process's share of each step's batch in micro-batches, which may be empty."""
    for step in steps:
        batch = order.batch(step)
        rows = torch.arange(len(batch))[processes.rank :: processes.count]
        draws = learner.draw(config, (order.seed, step), len(batch))
        for micro_batch in rows.tensor_split(config.train.accumulation_steps):
            if draws is None:
                yield batch[micro_batch], None
            else:
                drawn = draws.of(micro_batch)
                yield drawn.needed(batch, micro_batch), drawn


def _load(
    examples: TensorExamples,
    micro_batches: Iterator[MicroBatch],
    workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the augmented tensors of each micro-batch on `device`."""
    loaded, drawn = itertools.tee(micro_batches)
    batches = (
        _from_workers(examples, loaded, workers, device)
        if workers
        else _from_memory(examples, loaded, device)
    )
    for batch, (_, draws) in zip(batches, drawn, strict=True):
        yield batch if draws is None else draws.to(device).applied(batch)


def _from_memory(
    examples: TensorExamples, micro_batches: Iterator[MicroBatch], device: torch.device
) -> Iterator[Batch]:
    tensors = [tensor.to(device) for tensor in examples.tensors]
    for indices, _ in micro_batches:
        on_device = indices.to(device, non_blocking=True)  # a blocking copy waits for the last step
        yield tuple(tensor[on_device] for tensor in tensors)


def _from_workers(
    examples: TensorExamples,
    micro_batches: Iterator[MicroBatch],
    workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    loader = DataLoader(
        TensorDataset(*examples.tensors),
        sampler=(indices.tolist() for indices, _ in micro_batches),
        batch_size=None,  # the sampler yields micro-batches, which may be empty
        num_workers=workers,
        generator=torch.Generator(),  # by default it would draw from the global generator
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        yield tuple(tensor.to(device, non_blocking=True) for tensor in batch)


@dataclass(frozen=True)
class _Gradients(Generic[Torch]):
    """Computes the gradients of a step."""

    learner: Learner[Torch]
    trainer: Trainer
    config: TrainConfig
    processes: Processes

    def compute(self, batches: Iterator[Batch], batch_size: int) -> tuple[float, float]:
        """Compute and clip the gradients; return the loss and the norm before clipping."""
        model, config, processes = self.trainer.model, self.config, self.processes
        device = processes.device
        loss_of_batch = torch.zeros((), dtype=torch.float64, device=device)
        self.trainer.optimizer.zero_grad(set_to_none=True)
        for micro_batch in range(config.accumulation_steps):
            batch = next(batches)
            is_last = micro_batch == config.accumulation_steps - 1
            with processes.reducing(model, now=is_last):
                with torch.autocast(
                    device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
                ):
                    losses = self.learner.loss(model, batch)
                # Divided by the size of the global batch, so that the split into micro-batches
                # does not matter, and multiplied by the number of processes, because gradients
                # are averaged over them.
                loss = losses.sum() / batch_size
                (loss * processes.count).backward()
            loss_of_batch += loss.detach()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        # Under FSDP the norm is a DTensor distributed over the processes.
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return processes.sum(loss_of_batch).item(), norm.item()


def _change_weights(trainer: Trainer, lr: float) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr
    trainer.optimizer.step()


def _check_finite(model: nn.Module) -> None:
    """Raise if the last step, which no later loss checks, left weights that are not finite."""
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            msg = f"the last step left {name} not finite; lower train.lr"
            raise TrainingError(msg)

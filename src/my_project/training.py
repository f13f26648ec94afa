"""The training loop: AdamW, warm-up and cosine, the same curve on any number of processes.

What a step does depends on its number alone: the order of the examples and the learning
rate are functions of it. So a run that was interrupted goes on exactly where it was.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gates.errors import TrainingError
from my_project.augmentation import Draws, augmented, augments
from my_project.config import RunConfig, TrainConfig
from my_project.data import Examples
from my_project.model import VisionTransformer
from my_project.processes import Processes, device_of

Batch = tuple[Tensor, Tensor]
Part = tuple[Tensor, Draws | None]  # indices, partners' included, and what changes the images


@dataclass
class Trainer:
    """A model in training: all that a step changes.

    Args:
        model: gives logits (batch, classes) for images; it may be shared among processes.
        optimizer: AdamW over its parameters.
        step: optimiser steps taken so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one optimiser step came to.

    Args:
        step: counted from 1.
        epoch: counted from 1.
        ends_epoch: whether it is the last step of its epoch.
        loss: mean cross-entropy over the global batch before the step, in nats; where images are
            mixed, against the share of each class.
        lr: learning rate.
        gradient_norm: of all gradients together, before clipping.
    """

    step: int
    epoch: int
    ends_epoch: bool
    loss: float
    lr: float
    gradient_norm: float


def new_model(config: RunConfig) -> VisionTransformer:
    """Return an untrained model; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    return VisionTransformer(config.model).to(device_of(config.train))


def new_trainer(model: nn.Module, config: TrainConfig) -> Trainer:
    """Return `model` with an optimiser that has not taken a step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    return Trainer(model, optimizer)


def fit(
    trainer: Trainer,
    examples: Examples,
    run_config: RunConfig,
    *,
    processes: Processes | None = None,
    on_step: Callable[[StepReport], None] = lambda _: None,
) -> None:
    """Train from the trainer's step to the end of the last epoch.

    Args:
        trainer: changed in place.
        examples: what the model learns from, all of it in each epoch.
        run_config: how, and by its seed in which order.
        processes: those that train together; this one alone if not given.
        on_step: called after each step, in every process.

    Raises:
        TrainingError: a loss, a gradient or a weight is not finite.
    """
    config = run_config.train
    processes = processes or Processes(rank=0, count=1, device=device_of(config))
    steps_per_epoch = batches_in(len(examples), config.batch_size)
    steps = steps_per_epoch * config.epochs
    # What loads runs ahead of the steps, so it has an order of its own.
    order, loading = (_Order(len(examples), config.batch_size, run_config.seed) for _ in range(2))
    remaining = range(trainer.step, steps)
    parts = _parts(loading, remaining, examples.images.shape[1:], config, processes)
    batches = _load(examples, parts, run_config, processes.device)
    _keep_freed_memory()
    trainer.model.train()
    for step in remaining:
        indices = order.batch(step)
        lr = learning_rate(step, steps, config)
        # Read before the weights are changed: what is not finite spoils none, and a GPU is still
        # changing them while this process prepares the next step.
        loss, norm = _compute_gradients(trainer, batches, len(indices), config, processes)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            named = ", ".join(examples.ids[indices.numpy()])
            msg = f"step {step + 1}: loss {loss}, gradient norm {norm}; lower train.lr, or look at "
            msg += f"what the batch holds: {named}"
            raise TrainingError(msg)
        _change_weights(trainer, lr)
        trainer.step = step + 1
        on_step(
            StepReport(
                step=trainer.step,
                epoch=step // steps_per_epoch + 1,
                ends_epoch=trainer.step % steps_per_epoch == 0,
                loss=loss,
                lr=lr,
                gradient_norm=norm,
            )
        )
    _check_finite(trainer.model)


def _keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees for the step after it.

    How much it keeps grows with the largest block that was ever freed (M_MMAP_THRESHOLD in
    mallopt(3), at most 32 MiB). Without this block a step on a CPU may return its memory to
    the kernel and take it again page by page: 6 % of the time of configs/base.yaml.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8)


def batches_in(examples: int, batch_size: int) -> int:
    """Return the number of batches in an epoch; the last may be smaller."""
    return math.ceil(examples / batch_size)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the rate of `step` of `steps`: linear warm-up, then half a cosine down to zero."""
    warmup = round(steps * config.warmup_share)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Order:
    """Which examples each step takes: every epoch all of them, in an order of its own.

    It depends on the seed and the epoch only.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def batch(self, step: int) -> Tensor:
        """Return the indices of `step`, (batch_size,); the last of an epoch may be fewer."""
        epoch, position = divmod(step, batches_in(self.examples, self.batch_size))
        if epoch != self._epoch:
            # Not seed + epoch: the second epoch of one seed would be the first of the next.
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            shuffled = torch.randperm(self.examples, generator=generator)
            self._epoch, self._batches = epoch, shuffled.split(self.batch_size)
        return self._batches[position]


def _parts(
    order: _Order, steps: range, image: torch.Size, config: TrainConfig, processes: Processes
) -> Iterator[Part]:
    """Yield this process's share of each step's batch, in parts that may be empty."""
    for step in steps:
        batch = order.batch(step)
        rows = torch.arange(len(batch))[processes.rank :: processes.count]
        draws = None
        if augments(config):
            draws = Draws.of_batch((order.seed, step), len(batch), image, config)
        for part in rows.tensor_split(config.accumulation_steps):
            if draws is None:
                yield batch[part], None
            else:
                drawn = draws.of(part)
                both = [batch[part], batch[drawn.partners]] if config.mixup else [batch[part]]
                yield torch.cat(both), drawn


def _load(
    examples: Examples, parts: Iterator[Part], config: RunConfig, device: torch.device
) -> Iterator[Batch]:
    """Yield the images of each part, on `device`, and their labels or shares of each class."""
    loaded, drawn = itertools.tee(parts)
    workers = config.data.workers
    batches = (
        _from_workers(examples, loaded, workers, device)
        if workers
        else _from_memory(examples, loaded, device)
    )
    for (images, labels), (_, draws) in zip(batches, drawn, strict=True):
        if draws is None:
            yield images, labels
        else:
            there = draws.to(device)
            yield augmented(images, labels, there, config.train, config.model.classes)


def _from_memory(
    examples: Examples, parts: Iterator[Part], device: torch.device
) -> Iterator[Batch]:
    images, labels = examples.images.to(device), examples.labels.to(device)
    for part, _ in parts:
        on_device = part.to(device, non_blocking=True)  # else it waits for the step before
        yield images[on_device], labels[on_device]


def _from_workers(
    examples: Examples, parts: Iterator[Part], workers: int, device: torch.device
) -> Iterator[Batch]:
    loader = DataLoader(
        TensorDataset(examples.images, examples.labels),
        sampler=(part.tolist() for part, _ in parts),
        batch_size=None,  # a part at a time, which may be empty
        num_workers=workers,
        generator=torch.Generator(),  # from the global one it would take a number
        pin_memory=device.type == "cuda",
    )
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _compute_gradients(
    trainer: Trainer,
    batches: Iterator[Batch],
    batch_size: int,
    config: TrainConfig,
    processes: Processes,
) -> tuple[float, float]:
    """Compute a step's gradients and clip them; return its loss and their norm before that."""
    device = processes.device
    loss_of_batch = torch.zeros((), dtype=torch.float64, device=device)
    trainer.optimizer.zero_grad(set_to_none=True)
    for part in range(config.accumulation_steps):
        images, labels = next(batches)
        is_last = part == config.accumulation_steps - 1
        with processes.reducing(trainer.model, now=is_last):
            with torch.autocast(
                device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                logits = trainer.model(images)
            # Summed and divided by the global batch, so that how it is split does not matter;
            # times the processes, as their gradients are averaged.
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") / batch_size
            (loss * processes.count).backward()
        loss_of_batch += loss.detach()
    norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), config.clip_norm)
    # Under FSDP the norm is spread over the processes until it is asked for.
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return processes.sum(loss_of_batch).item(), norm.item()


def _change_weights(trainer: Trainer, lr: float) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr
    trainer.optimizer.step()


def _check_finite(model: nn.Module) -> None:
    """Raise if the last step, whose loss nobody has seen, has spoiled the weights."""
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            msg = f"the last step left {name} not finite; lower train.lr"
            raise TrainingError(msg)

"""The training loop: AdamW, warm-up and cosine, over a split that fits in memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn

from gates.errors import ConfigError, TrainingError
from my_project.config import RunConfig, TrainConfig
from my_project.data import Examples
from my_project.model import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one pass over the training split came to.

    Args:
        epoch: counted from 1.
        step: optimiser steps so far.
        loss: mean cross-entropy of the epoch's batches, in nats.
        lr: learning rate of the last step.
    """

    epoch: int
    step: int
    loss: float
    lr: float


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that the configuration asks for.

    Raises:
        ConfigError: it asks for CUDA where there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        msg = "train.device: cuda, but torch sees no GPU here; use auto or cpu"
        raise ConfigError(msg)
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def new_model(config: RunConfig) -> VisionTransformer:
    """Return an untrained model; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    return VisionTransformer(config.model).to(device_of(config.train))


def fit(
    model: nn.Module,
    examples: Examples,
    config: TrainConfig,
    *,
    seed: int,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> None:
    """Train `model` in place on `examples`.

    Args:
        model: gives logits (batch, classes) for images.
        examples: what it learns from, all of it each epoch.
        config: how.
        seed: fixes the order of the examples.
        on_epoch: called after each pass.

    Raises:
        TrainingError: a loss or a weight is not finite.
    """
    device = next(model.parameters()).device
    images, labels = examples.images.to(device), examples.labels.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    steps_per_epoch = math.ceil(len(examples) / config.batch_size)
    generator = torch.Generator().manual_seed(seed)
    step = 0
    lr = config.lr
    model.train()
    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in _batches(len(examples), config.batch_size, generator):
            lr = learning_rate(step, steps_per_epoch * config.epochs, config)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch_on_device = batch.to(device)
            loss = _step(
                model, optimizer, images[batch_on_device], labels[batch_on_device], config.clip_norm
            )
            if not math.isfinite(loss):
                named = ", ".join(examples.ids[batch.numpy()][:3])
                msg = f"step {step}: the loss is {loss} on the batch of {named} …; lower train.lr"
                raise TrainingError(msg)
            losses.append(loss)
            step += 1
        on_epoch(EpochReport(epoch=epoch, step=step, loss=sum(losses) / len(losses), lr=lr))
    _check_finite(model)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the rate of `step` of `steps`: linear warm-up, then half a cosine down to zero."""
    warmup = round(steps * config.warmup_share)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    clip_norm: float,
) -> float:
    """Take one optimiser step; return the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()


def _check_finite(model: nn.Module) -> None:
    """Raise if the last step, whose loss nobody has seen, has spoiled the weights."""
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            msg = f"the last step left {name} not finite; lower train.lr"
            raise TrainingError(msg)


def _batches(examples: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of shuffled batches, (size,) each; the last may be smaller."""
    order = torch.randperm(examples, generator=generator)
    yield from order.split(size)

"""Learns which row of an image is brightest."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn

from training.pytorch.learner import Batch, Learner, Score
from training.pytorch.method import TorchMethod

from toy.config import ModelConfig, RunConfig, TrainConfig


class Network(nn.Module):
    """Fully connected layers from images to class logits; the last layer starts at zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem = nn.Linear(config.pixels, config.width)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.GELU(), nn.Linear(config.width, config.width))
                for _ in range(config.depth)
            )
        )
        self.head = nn.Linear(config.width, config.classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, pixels)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random draws for a batch, a row per example.

    Args:
        partners: (batch,) index in the batch of the example that each is mixed with.
        noise: (batch, pixels) standard normal.
        config: the strengths of mixing and noise.
    """

    partners: Tensor
    noise: Tensor
    config: TrainConfig

    def of(self, rows: Tensor) -> Self:
        """Return the draws for some rows of the batch."""
        return replace(self, partners=self.partners[rows], noise=self.noise[rows])

    def to(self, place: torch.device) -> Self:
        """Return the draws on another device."""
        return replace(self, partners=self.partners.to(place), noise=self.noise.to(place))

    def needed(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Return the indices of the examples that `rows` of `batch` are made from."""
        return torch.cat([batch[rows], batch[self.partners]])

    def applied(self, batch: Batch) -> Batch:
        """Return the augmented images and their labels."""
        images, labels = batch
        count = len(self.partners)
        mixed = torch.lerp(images[:count], images[count:], self.config.mix)
        return mixed + self.config.noise * self.noise.to(images.dtype), labels[:count]


def draw(config: RunConfig, seeds: tuple[int, int], size: int) -> Draws | None:
    """Draw for a batch; None if there is no augmentation."""
    if not (config.train.mix or config.train.noise):
        return None
    noise = np.random.default_rng(seeds).standard_normal((size, config.model.pixels))
    return Draws(
        partners=torch.arange(size).roll(-1), noise=torch.from_numpy(noise), config=config.train
    )


def build_model(config: RunConfig) -> Network:
    """Return an untrained model."""
    return Network(config.model)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of each image in nats, (rows,)."""
    images, labels = batch
    return F.cross_entropy(model(images).float(), labels, reduction="none")


def is_right(model: nn.Module, batch: Batch) -> Tensor:
    """Return whether each image is classified correctly, (rows,)."""
    images, labels = batch
    right: Tensor = model(images).argmax(dim=1) == labels
    return right.to(torch.float64)


ACCURACY = Score(name="accuracy", better="higher", of=is_right)
LEARNER = Learner(build_model=build_model, loss=loss, score=ACCURACY, draw=draw)
METHOD = TorchMethod(RunConfig, LEARNER)

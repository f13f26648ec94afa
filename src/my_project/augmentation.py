"""Augments training images at random: distortion, mixup and noise.

The random numbers for a batch depend only on the seed and the step, so they are the same with any
number of processes and micro-batches, and after a resume.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
from torch import Tensor

from my_project.config import RunConfig, TrainConfig

# The largest distortion of an image at strength 1.
_DEGREES, _SCALE, _SHEAR, _PIXELS = 10, 0.05, 0.1, 0.25
_DISTORTIONS = 5
_NO_INK = -1.0  # pixel value outside the image


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers that augment a batch, with a row for each example.

    Args:
        partners: (batch,) the index in the batch of the example that each is mixed with.
        distortions: (batch, 2, 5) for each image and its partner, uniform in [-1, 1].
        shares: (batch,) the weight of the image itself in a mix of two, in [0, 1].
        noise: (batch, channels, height, width) standard normal; (batch, 0) without noise.
        config: how strong each augmentation is.
        classes: number of classes.
    """

    partners: Tensor
    distortions: Tensor
    shares: Tensor
    noise: Tensor
    config: TrainConfig
    classes: int

    def to(self, place: torch.device) -> Self:
        """Return the draws on another device."""
        return self._each(lambda tensor: tensor.to(place, non_blocking=True))

    def of(self, rows: Tensor) -> Self:
        """Return the draws for some rows of the batch."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            partners=change(self.partners),
            distortions=change(self.distortions),
            shares=change(self.shares),
            noise=change(self.noise),
        )

    def needed(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Return the indices of all examples needed to augment `rows` of `batch`."""
        both = [batch[rows], batch[self.partners]] if self.config.mixup else [batch[rows]]
        return torch.cat(both)

    def applied(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the augmented images and the share of each class in them."""
        images, labels = batch
        return augmented(images, labels, self, self.config, self.classes)


def draw(config: RunConfig, seeds: tuple[int, int], size: int) -> Draws | None:
    """Return the draws for a batch, or None if augmentation is off.

    Args:
        config: the configuration, which says what to draw.
        seeds: seeds of the random-number generator.
        size: number of examples in the batch.
    """
    train, model = config.train, config.model
    if not (train.distortion or train.mixup or train.noise):
        return None
    image = (model.channels, model.image_size, model.image_size)
    random = np.random.default_rng(seeds)
    distortions = random.uniform(-1, 1, (size, 2, _DISTORTIONS))
    shares = random.beta(train.mixup, train.mixup, size) if train.mixup else np.ones(size)
    noise = random.standard_normal((size, *image) if train.noise else (size, 0))
    return Draws(
        # Batches are shuffled already, so the next example is as good a partner as any.
        partners=torch.arange(size).roll(-1),
        distortions=torch.from_numpy(distortions),
        shares=torch.from_numpy(shares),
        noise=torch.from_numpy(noise),
        config=train,
        classes=model.classes,
    )


def augmented(
    images: Tensor, labels: Tensor, draws: Draws, config: TrainConfig, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the augmented images and the share of each class in them.

    Source of mixup: Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization".

    Args:
        images: (batch, channels, height, width); with mixup (2 x batch, …), the examples followed
            by their partners.
        labels: (batch,), or (2 x batch,) with mixup.
        draws: random numbers for each example.
        config: how strong each augmentation is.
        classes: number of classes.

    Returns:
        (batch, channels, height, width) and (batch, classes).
    """
    if config.distortion:
        kinds = [0, 1] if config.mixup else [0]
        parameters = torch.cat([draws.distortions[:, kind] for kind in kinds])
        images = distorted(images, parameters, config.distortion)
    targets = F.one_hot(labels, classes).to(images.dtype)
    if config.mixup:
        count = len(draws.shares)
        share = draws.shares.to(images.dtype)
        images = _mixed(images[:count], images[count:], share.view(-1, 1, 1, 1))
        targets = _mixed(targets[:count], targets[count:], share.view(-1, 1))
    if config.noise:
        images = images + config.noise * draws.noise.to(images.dtype)
    return images, targets


def _mixed(own: Tensor, others: Tensor, share: Tensor) -> Tensor:
    return share * own + (1 - share) * others


def distorted(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Return slightly rotated, scaled, sheared and shifted images, padded without ink.

    Args:
        images: (batch, channels, height, width), where -1 is no ink.
        draws: (batch, 5), uniform in [-1, 1]: turn, scale, shear, pixels right, pixels down.
        strength: at 1, up to 10 degrees, 5 %, 0.1 and a quarter of a pixel.
    """
    if not len(images):
        return images  # affine_grid refuses an empty batch
    turn, scale, shear, right, down = (draws.to(images.dtype) * strength).unbind(1)
    angle, size = turn * math.radians(_DEGREES), 1 + scale * _SCALE
    cosine, sine = angle.cos() * size, angle.sin() * size
    height, width = images.shape[2:]
    # Rows of the matrices that map each output pixel to its source, in units of half an image
    # (torch.nn.functional.affine_grid).
    across = torch.stack([cosine, shear * _SHEAR - sine, right * _PIXELS * 2 / width], dim=1)
    along = torch.stack([sine, cosine, down * _PIXELS * 2 / height], dim=1)
    matrices = torch.stack([across, along], dim=1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    # grid_sample pads with zeros, so shift the images to make zero mean no ink.
    return F.grid_sample(images - _NO_INK, grid, align_corners=False) + _NO_INK

"""Changes training images at random: distorted, mixed in pairs, with noise.

What is drawn for a batch depends on the seed and on which batch it is, and on nothing else: it is
the same for however many processes and parts, and after a run was resumed.
"""

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from my_project.config import TrainConfig

# How far an image is distorted at most, at strength 1.
_DEGREES, _SCALE, _SHEAR, _PIXELS = 10, 0.05, 0.1, 0.25
_DISTORTIONS = 5
_NO_INK = -1.0  # what comes in from outside of an image


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn for the examples of a batch, a row for each.

    Args:
        partners: (batch,) the place in the batch of the example that each is mixed with.
        distortions: (batch, 2, 5) of an image and of its partner's, uniform in [-1, 1].
        shares: (batch,) of the image itself where two are mixed, in [0, 1].
        noise: (batch, channels, height, width) standard normal; of no size if there is none.
    """

    partners: Tensor
    distortions: Tensor
    shares: Tensor
    noise: Tensor

    @classmethod
    def of_batch(
        cls, seeds: tuple[int, ...], size: int, image: torch.Size, config: TrainConfig
    ) -> Self:
        """Draw for a batch.

        Args:
            seeds: what the draws depend on.
            size: examples in the batch.
            image: the shape of one: (channels, height, width).
            config: says what is needed.
        """
        random = np.random.default_rng(seeds)
        distortions = random.uniform(-1, 1, (size, 2, _DISTORTIONS))
        shares = random.beta(config.mixup, config.mixup, size) if config.mixup else np.ones(size)
        noise = random.standard_normal((size, *image) if config.noise else (size, 0))
        return cls(
            # Batches are in a random order already: the next one is as good as any.
            partners=torch.arange(size).roll(-1),
            distortions=torch.from_numpy(distortions),
            shares=torch.from_numpy(shares),
            noise=torch.from_numpy(noise),
        )

    def to(self, device: torch.device) -> "Draws":
        """Return the same on another device."""
        moved = {
            each.name: getattr(self, each.name).to(device, non_blocking=True)
            for each in fields(self)
        }
        return Draws(**moved)

    def of(self, rows: Tensor) -> "Draws":
        """Return what was drawn for some rows of the batch."""
        return Draws(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def augments(config: TrainConfig) -> bool:
    """Whether training images are changed at all."""
    return bool(config.distortion or config.mixup or config.noise)


def augmented(
    images: Tensor, labels: Tensor, draws: Draws, config: TrainConfig, classes: int
) -> tuple[Tensor, Tensor]:
    """Return changed images, and the share of each class in them.

    Source of mixing: Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization".

    Args:
        images: (batch, channels, height, width); where images are mixed (2 x batch, …), first the
            examples, then their partners.
        labels: as many.
        draws: for each example.
        config: how much of each.
        classes: how many there are.

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
        images = _between(images[:count], images[count:], share.view(-1, 1, 1, 1))
        targets = _between(targets[:count], targets[count:], share.view(-1, 1))
    if config.noise:
        images = images + config.noise * draws.noise.to(images.dtype)
    return images, targets


def _between(own: Tensor, others: Tensor, share: Tensor) -> Tensor:
    return share * own + (1 - share) * others


def distorted(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Return images that are turned, scaled, sheared and moved a little, without ink around them.

    Args:
        images: (batch, channels, height, width), in which no ink is -1.
        draws: (batch, 5), uniform in [-1, 1]: turn, scale, shear, pixels right, pixels down.
        strength: 1 for up to 10 degrees, 5 %, 0.1 and a quarter of a pixel.
    """
    if not len(images):
        return images  # affine_grid takes some only
    turn, scale, shear, right, down = (draws.to(images.dtype) * strength).unbind(1)
    angle, size = turn * math.radians(_DEGREES), 1 + scale * _SCALE
    cosine, sine = angle.cos() * size, angle.sin() * size
    height, width = images.shape[2:]
    # Rows of the matrices that say where each pixel of the result comes from, in units of half
    # an image (torch.nn.functional.affine_grid).
    across = torch.stack([cosine, shear * _SHEAR - sine, right * _PIXELS * 2 / width], dim=1)
    along = torch.stack([sine, cosine, down * _PIXELS * 2 / height], dim=1)
    matrices = torch.stack([across, along], dim=1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    # It puts zeros around an image.
    return F.grid_sample(images - _NO_INK, grid, align_corners=False) + _NO_INK

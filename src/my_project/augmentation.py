"""Changes training images at random: distorted, mixed in pairs, with noise.

What is drawn for a batch depends on the seed and on which batch it is, and on nothing else: it is
the same for however many processes and parts, and after a run was resumed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from my_project.config import RunConfig, TrainConfig

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
        config: how much of each.
        classes: how many classes there are.
    """

    partners: Tensor
    distortions: Tensor
    shares: Tensor
    noise: Tensor
    config: TrainConfig
    classes: int

    def to(self, place: torch.device) -> Self:
        """Return the same on another device."""
        return self._each(lambda tensor: tensor.to(place, non_blocking=True))

    def of(self, rows: Tensor) -> Self:
        """Return what was drawn for some rows of the batch."""
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
        """Return the indices of the examples that `rows` of `batch` are made from."""
        both = [batch[rows], batch[self.partners]] if self.config.mixup else [batch[rows]]
        return torch.cat(both)

    def applied(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the images, changed, and the share of each class in them."""
        images, labels = batch
        return augmented(images, labels, self, self.config, self.classes)


def draw(config: RunConfig, seeds: tuple[int, int], size: int) -> Draws | None:
    """Draw for a batch; None if nothing is changed.

    Args:
        config: says what is needed.
        seeds: what the draws depend on.
        size: examples in the batch.
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
        # Batches are in a random order already: the next one is as good as any.
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

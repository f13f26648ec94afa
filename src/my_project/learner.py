"""What is learned: the digit in an image."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn

from training.pytorch.learner import Batch, Learner, Score
from training.pytorch.method import TorchMethod

from my_project.augmentation import draw
from my_project.config import RunConfig
from my_project.model import VisionTransformer


def build_model(config: RunConfig) -> VisionTransformer:
    """Return an untrained model."""
    return VisionTransformer(config.model)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of each image in nats, (rows,).

    Where images are mixed, it is against the share of each class.
    """
    images, labels = batch
    return F.cross_entropy(model(images).float(), labels, reduction="none")


def is_right(model: nn.Module, batch: Batch) -> Tensor:
    """Return whether each image is recognised, (rows,)."""
    images, labels = batch
    right: Tensor = model(images).argmax(dim=1) == labels
    return right.to(torch.float64)


ACCURACY = Score(name="accuracy", better="higher", of=is_right)
LEARNER = Learner(build_model=build_model, loss=loss, score=ACCURACY, draw=draw)
METHOD = TorchMethod(RunConfig, LEARNER)

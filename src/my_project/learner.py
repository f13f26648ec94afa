"""Model, loss and score for the task of recognising the digit in an image."""

import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
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

    For mixed images, the target is the share of each class.
    """
    images, labels = batch
    return F.cross_entropy(model(images).float(), labels, reduction="none")


def is_right(model: nn.Module, batch: Batch) -> Tensor:
    """Return 1 for each image that is classified correctly and 0 for the others, (rows,)."""
    images, labels = batch
    correct: Tensor = model(images).argmax(dim=1) == labels
    return correct.to(torch.float64)


ACCURACY = Score(name="accuracy", better="higher", of=is_right)
LEARNER = Learner(build_model=build_model, loss=loss, score=ACCURACY, draw=draw)
METHOD = TorchMethod(RunConfig, LEARNER)

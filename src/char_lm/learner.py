"""Model, loss and score for the task of predicting the next character of a passage."""

import math

import torch.nn.functional as F  # noqa: N812 - the conventional name
from torch import Tensor, nn

from training.pytorch.learner import Batch, Learner, Score
from training.pytorch.method import TorchMethod

from char_lm.config import RunConfig
from char_lm.model import CharacterModel
from char_lm.vocabulary import PADDING


def build_model(config: RunConfig) -> CharacterModel:
    """Return an untrained model."""
    return CharacterModel(config.model)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy per character of each passage, in nats, (rows,)."""
    (symbols,) = batch
    logits: Tensor = model(symbols).float()
    targets = symbols.long()
    nats = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="none"
    )
    return nats.view_as(targets).sum(dim=1) / (targets != PADDING).sum(dim=1)


def bits_per_character(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy per character of each passage, in bits, (rows,)."""
    return loss(model, batch) / math.log(2)


# The states and logits of the base model for 128 passages take about 100 MB.
BITS = Score(name="bits_per_character", better="lower", of=bits_per_character, batch_size=128)
LEARNER = Learner(build_model=build_model, loss=loss, score=BITS)
METHOD = TorchMethod(RunConfig, LEARNER)

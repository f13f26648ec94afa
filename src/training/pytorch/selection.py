"""Early stopping and selection of the best epoch, both by the score on the validation split."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from gates.errors import TrainingError
from training.config import TrainConfig


@dataclass
class Selection:
    """The best epoch of a run so far; if two have the same score, the earlier one.

    Args:
        better: the direction in which the score improves.
        patience: epochs without an improvement after which training stops; None for never.
        epoch: the best epoch, counted from 1; 0 before the first one has ended.
        score: its score.
        weights: its weights, only this process's shards; empty if the run keeps its last epoch.
    """

    better: Literal["higher", "lower"]
    patience: int | None
    epoch: int = 0
    score: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: TrainConfig, better: Literal["higher", "lower"], model: nn.Module
    ) -> Self | None:
        """Return a new selection, or None if `config` asks for neither stopping nor selection."""
        if config.patience is None and config.keep == "last":
            return None
        weights = {}
        if config.keep == "best":
            weights = {name: values.clone() for name, values in _weights_of(model).items()}
        return cls(better=better, patience=config.patience, weights=weights)

    def stops_after(self, epoch: int, score: float, model: nn.Module) -> bool:
        """Record an epoch that has ended; return whether training should stop after it.

        Raises:
            TrainingError: the score is not finite.
        """
        if not math.isfinite(score):
            msg = f"epoch {epoch}: the validation score is {score}, so no epoch can be selected; "
            msg += "lower train.lr, or check the validation split"
            raise TrainingError(msg)
        improves = score > self.score if self.better == "higher" else score < self.score
        if improves or self.epoch == 0:
            self.epoch, self.score = epoch, score
            current = _weights_of(model) if self.weights else {}
            for name, kept in self.weights.items():
                kept.copy_(current[name])
        return self.patience is not None and epoch - self.epoch >= self.patience

    def load_best_into(self, model: nn.Module) -> None:
        """Load the weights of the best epoch into `model`."""
        set_model_state_dict(model, dict(self.weights))

    def state(self) -> dict[str, Any]:
        """Return the mutable state as tensors, for snapshots.

        `weights` is not copied, so that a snapshot can be loaded into it in place.
        """
        state: dict[str, Any] = {
            "epoch": torch.tensor(self.epoch),
            "score": torch.tensor(self.score, dtype=torch.float64),
        }
        return {**state, "weights": self.weights} if self.weights else state

    def restore(self, state: dict[str, Any]) -> None:
        """Set the epoch and the score from `state`; the weights were loaded in place."""
        self.epoch, self.score = int(state["epoch"]), float(state["score"])


def _weights_of(model: nn.Module) -> dict[str, Tensor]:
    weights = cast("dict[str, Tensor]", get_model_state_dict(model))
    return {name: values.detach() for name, values in weights.items()}

"""The model can memorise one batch, and two controls cannot."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
from torch import nn

from training.pytorch import loop
from training.pytorch.outputs import mean_score

from my_project.config import RunConfig
from my_project.data import CLASSES, Examples
from my_project.learner import LEARNER, is_right

BATCH = 32
OVERFIT_STEPS = 200  # the loss ends near 0.004 with each of five seeds
CONTROL_STEPS = 96  # with correct labels, enough for 0.70 to 0.83 on held-out examples
LOSS_BAR = 0.01  # an untrained model has ln 10 = 2.30


def test_one_batch_is_memorised(config: RunConfig, training_examples: Examples) -> None:
    batch = first(training_examples, BATCH)
    model = loop.new_model(LEARNER, config)
    before = loss_of(model, batch)

    fit_steps(model, batch, config, steps=OVERFIT_STEPS)

    assert before == pytest.approx(math.log(CLASSES), abs=0.1)
    assert has_overfitted(model, batch), f"loss {before:.3f} -> {loss_of(model, batch):.4f}"


def test_without_learning_rate_nothing_is_learned(
    config: RunConfig, training_examples: Examples
) -> None:
    batch = first(training_examples, BATCH)
    model = loop.new_model(LEARNER, config)

    fit_steps(model, batch, config, steps=OVERFIT_STEPS, lr=0.0)

    assert not has_overfitted(model, batch)
    assert loss_of(model, batch) == pytest.approx(math.log(CLASSES), abs=0.1)


def test_shuffled_labels_teach_nothing(
    config: RunConfig, training_examples: Examples, held_out_examples: Examples
) -> None:
    batch = first(training_examples, 8 * BATCH)
    shuffled = batch.labels[torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))]
    from_shuffled = loop.new_model(LEARNER, config)
    from_correct = loop.new_model(LEARNER, config)

    fit_steps(
        from_shuffled, dataclasses.replace(batch, labels=shuffled), config, steps=CONTROL_STEPS
    )
    fit_steps(from_correct, batch, config, steps=CONTROL_STEPS)

    # Chance is 0.1; with 277 held-out examples its standard error is 0.018.
    assert mean_score(from_shuffled, held_out_examples, is_right) < 0.2
    assert mean_score(from_correct, held_out_examples, is_right) > 0.5


def has_overfitted(model: nn.Module, batch: Examples) -> bool:
    """Whether the model has memorised the batch: the check that the controls must fail."""
    return loss_of(model, batch) < LOSS_BAR and mean_score(model, batch, is_right) == 1.0


def fit_steps(
    model: nn.Module,
    batch: Examples,
    config: RunConfig,
    *,
    steps: int,
    lr: float | None = None,
) -> None:
    """Take `steps` steps on batches of 32, without weight decay, which hinders overfitting."""
    epochs = steps // math.ceil(len(batch) / BATCH)
    # model_copy skips validation, which refuses a learning rate of 0.
    train = config.train.model_copy(
        update={
            "lr": config.train.lr if lr is None else lr,
            "epochs": epochs,
            "batch_size": BATCH,
            "weight_decay": 0.0,
        }
    )
    changed = config.model_copy(update={"train": train})
    loop.fit(loop.new_trainer(model, train), batch, changed, LEARNER)


@torch.inference_mode()
def loss_of(model: nn.Module, batch: Examples) -> float:
    return F.cross_entropy(model(batch.images), batch.labels).item()


def first(examples: Examples, count: int) -> Examples:
    return Examples(
        ids=examples.ids[:count],
        images=examples.images[:count],
        labels=examples.labels[:count],
        thicknesses=examples.thicknesses[:count],
        data_digest=examples.data_digest,
    )

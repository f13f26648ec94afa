"""Training the project's model: results do not depend on how a batch is loaded."""

import dataclasses

import pytest
import torch
from torch import nn

from training.pytorch import loop
from training.pytorch.loop import StepReport, Trainer

from my_project.config import RunConfig
from my_project.data import Examples
from my_project.learner import LEARNER

AUGMENTED = {"distortion": 1.0, "mixup": 0.4, "noise": 0.2}


def new_trainer(config: RunConfig) -> Trainer:
    return loop.new_trainer(loop.new_model(LEARNER, config), config.train)


def trained(config: RunConfig, examples: Examples) -> tuple[nn.Module, list[StepReport]]:
    reports: list[StepReport] = []
    trainer = new_trainer(config)
    loop.fit(trainer, examples, config, LEARNER, on_step=reports.append)
    return trainer.model, reports


def double_trainer(config: RunConfig) -> Trainer:
    """Return a trainer whose weights are float64.

    The gradient of the bias of attention keys is only rounding error, which Adam scales up: in
    float32 another summation order can move that bias by up to the learning rate.
    """
    return loop.new_trainer(loop.new_model(LEARNER, config).double(), config.train)


def fit_in_double(trainer: Trainer, config: RunConfig, examples: Examples) -> nn.Module:
    doubled = dataclasses.replace(examples, images=examples.images.double())
    with pytest.MonkeyPatch.context() as patched:
        # The loop casts the loss to float32 for any model; here it must not round.
        patched.setattr(torch.Tensor, "float", torch.Tensor.double)
        loop.fit(trainer, doubled, config, LEARNER)
    return trainer.model


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, yours) for mine, yours in pairs)


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((mine - yours).abs().max().item() for mine, yours in pairs)


def with_train(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def with_workers(config: RunConfig, workers: int) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})


def test_training_lowers_the_loss(config: RunConfig, training_examples: Examples) -> None:
    _, reports = trained(with_train(config, epochs=30, lr=0.01), training_examples)
    # Thirty images of noise can only be memorised.
    assert reports[-1].loss < reports[0].loss - 0.5


@pytest.mark.parametrize("micro_batches", [2, 4, 5])
def test_accumulation_changes_neither_the_weights_nor_the_loss_curve(
    config: RunConfig, training_examples: Examples, micro_batches: int
) -> None:
    # In batches of 4 the last of an epoch has 2 examples, so some of its micro-batches are empty.
    whole = with_train(config, batch_size=4)
    split = with_train(whole, accumulation_steps=micro_batches)
    one, other = (
        fit_in_double(double_trainer(config), config, training_examples)
        for config in (whole, split)
    )
    assert largest_difference(one, other) < 1e-6
    curve, other_curve = (
        [report.loss for report in trained(config, training_examples)[1]]
        for config in (whole, split)
    )
    assert curve == pytest.approx(other_curve, abs=1e-5)


def test_bfloat16_learns_and_keeps_its_weights_in_float32(
    config: RunConfig, training_examples: Examples
) -> None:
    model, curve = trained(with_train(config, epochs=5, lr=0.01), training_examples)
    half, other = trained(
        with_train(config, epochs=5, lr=0.01, precision="bfloat16"), training_examples
    )
    assert all(weights.dtype == torch.float32 for weights in half.parameters())
    assert all(weights.isfinite().all() for weights in half.parameters())
    assert not are_equal(half, model), "the precision has no effect"
    # bfloat16 keeps eight bits, so the error is up to 1/256 of a loss of about 2.3.
    losses = [report.loss for report in other]
    assert losses == pytest.approx([report.loss for report in curve], abs=0.05)


@pytest.mark.parametrize(("micro_batches", "workers"), [(1, 0), (3, 0), (1, 2)])
def test_augmentation_does_not_depend_on_how_a_batch_is_loaded(
    micro_batches: int, workers: int, config: RunConfig, training_examples: Examples
) -> None:
    whole = with_train(config, **AUGMENTED, batch_size=30)
    expected = fit_in_double(double_trainer(whole), whole, training_examples)
    changed = with_workers(with_train(whole, accumulation_steps=micro_batches), workers)
    found = fit_in_double(double_trainer(changed), changed, training_examples)
    assert largest_difference(found, expected) < 1e-9
    for each in AUGMENTED:
        less = with_train(whole, **{each: 0.0})
        without = fit_in_double(double_trainer(less), less, training_examples)
        assert largest_difference(without, expected) > 1e-4


def test_a_run_on_augmented_images_resumes_exactly(
    config: RunConfig, training_examples: Examples
) -> None:
    settings_ = with_train(config, **AUGMENTED)
    whole, reports = trained(settings_, training_examples)
    trainer = new_trainer(settings_)

    class AbortError(Exception):
        pass

    def abort(report: StepReport) -> None:
        if report.step == len(reports) // 2 + 1:
            raise AbortError

    with pytest.raises(AbortError):
        loop.fit(trainer, training_examples, settings_, LEARNER, on_step=abort)
    loop.fit(trainer, training_examples, settings_, LEARNER)
    assert are_equal(trainer.model, whole)

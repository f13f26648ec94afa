import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import ExitCode, GateError, TrainingError
from my_project import training
from my_project.config import RunConfig, TrainConfig
from my_project.data import Examples
from my_project.model import VisionTransformer
from my_project.training import EpochReport

CONFIG = TrainConfig(
    epochs=2,
    batch_size=8,
    lr=0.4,
    weight_decay=0.01,
    warmup_share=0.2,
    clip_norm=1.0,
    device="cpu",
)


def trained(
    config: RunConfig, examples: Examples, *, seed: int = 0
) -> tuple[VisionTransformer, list[EpochReport]]:
    reports: list[EpochReport] = []
    model = training.new_model(config)
    training.fit(model, examples, config.train, seed=seed, on_epoch=reports.append)
    return model, reports


def are_equal(one: VisionTransformer, other: VisionTransformer) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, yours) for mine, yours in pairs)


def with_train(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def test_same_seed_gives_the_same_new_model(config: RunConfig) -> None:
    assert are_equal(training.new_model(config), training.new_model(config))


def test_another_seed_gives_another_new_model(config: RunConfig) -> None:
    other = config.model_copy(update={"seed": 1})
    assert not are_equal(training.new_model(config), training.new_model(other))


def test_same_seed_gives_the_same_weights(config: RunConfig, training_examples: Examples) -> None:
    one, reports = trained(config, training_examples)
    other, other_reports = trained(config, training_examples)
    assert are_equal(one, other)
    assert reports == other_reports


def test_another_seed_gives_other_weights(config: RunConfig, training_examples: Examples) -> None:
    one, _ = trained(config, training_examples, seed=0)
    other, _ = trained(config, training_examples, seed=1)
    assert not are_equal(one, other)


def test_training_lowers_the_loss(config: RunConfig, training_examples: Examples) -> None:
    _, reports = trained(with_train(config, epochs=30, lr=0.01), training_examples)
    # Thirty images of noise can only be learned by heart.
    assert reports[-1].loss < reports[0].loss - 0.5


def test_each_epoch_is_reported(config: RunConfig, training_examples: Examples) -> None:
    _, reports = trained(with_train(config, epochs=3), training_examples)
    # 30 examples in batches of 8 are 4 steps, the last batch of 6.
    assert [(report.epoch, report.step) for report in reports] == [(1, 4), (2, 8), (3, 12)]
    train = with_train(config, epochs=3).train
    assert [report.lr for report in reports] == [
        training.learning_rate(step, 12, train) for step in (3, 7, 11)
    ]


def test_first_reported_loss_is_that_of_the_untrained_model(
    config: RunConfig, training_examples: Examples
) -> None:
    _, reports = trained(with_train(config, epochs=1, batch_size=30), training_examples)
    assert reports[0].loss == pytest.approx(math.log(10), abs=1e-6)


def test_reported_loss_is_the_mean_of_its_batches(
    config: RunConfig, training_examples: Examples
) -> None:
    # At this rate nothing moves, so that each of the four batches loses ln 10.
    _, reports = trained(with_train(config, epochs=1, lr=1e-12), training_examples)
    assert reports[0].loss == pytest.approx(math.log(10), abs=1e-6)


def test_first_step_is_as_long_as_the_warm_up_says(
    config: RunConfig, training_examples: Examples
) -> None:
    # All four steps warm up, so the first has a quarter of the rate; Adam's first step moves
    # each weight by the rate, and those of the head start at zero.
    four_steps = with_train(config, epochs=4, batch_size=30, warmup_share=0.99, lr=0.1)
    model = training.new_model(four_steps)
    moved: list[float] = []
    training.fit(
        model,
        training_examples,
        four_steps.train,
        seed=0,
        on_epoch=lambda _: moved.append(model.head.weight.abs().max().item()),
    )
    assert moved[0] == pytest.approx(0.1 / 4, rel=1e-3)


def test_gradients_are_clipped(config: RunConfig, training_examples: Examples) -> None:
    model, _ = trained(with_train(config, clip_norm=1e-3), training_examples)
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = torch.stack([torch.zeros(()) if g is None else g.norm() for g in gradients]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


def test_model_is_left_in_training_mode(config: RunConfig, training_examples: Examples) -> None:
    model = training.new_model(config).eval()
    training.fit(model, training_examples, config.train, seed=0)
    assert model.training


def test_loss_that_is_not_finite_ends_training(
    config: RunConfig, training_examples: Examples
) -> None:
    broken = dataclasses.replace(
        training_examples, images=torch.full_like(training_examples.images, math.inf)
    )
    with pytest.raises(TrainingError) as raised:
        trained(config, broken)
    # The first batch of 8, in the order that the seed gives.
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    named = ", ".join(f"{row:016x}" for row in order[:3].tolist())
    assert str(raised.value) == (
        f"step 0: the loss is nan on the batch of {named} …; lower train.lr"
    )


def test_loss_that_becomes_infinite_later_names_its_step(
    config: RunConfig, training_examples: Examples
) -> None:
    last = int(torch.randperm(30, generator=torch.Generator().manual_seed(0))[-1])
    images = training_examples.images.clone()
    images[last] = math.nan
    broken = dataclasses.replace(training_examples, images=images)
    with pytest.raises(TrainingError, match=r"^step 3: the loss is nan "):
        trained(config, broken)


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    auto = CONFIG.model_copy(update={"device": "auto"})
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert training.device_of(auto).type == expected


def test_cpu_is_taken_where_it_is_asked_for() -> None:
    assert training.device_of(CONFIG).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(GateError, match=r"train\.device: cuda, but torch sees no GPU") as raised:
        training.device_of(CONFIG.model_copy(update={"device": "cuda"}))
    assert raised.value.exit_code == ExitCode.COULD_NOT_JUDGE


def test_learning_rate_of_a_worked_example() -> None:
    # Two of ten steps warm up; then half a cosine over eight: at a quarter of it
    # 0.2 · (1 + cos 45°), half-way 0.2, at three quarters 0.2 · (1 + cos 135°).
    rates = [training.learning_rate(step, 10, CONFIG) for step in (0, 1, 2, 4, 6, 8)]
    expected = [0.2, 0.4, 0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))]
    assert rates == pytest.approx(expected)


def test_learning_rate_without_warm_up_starts_full() -> None:
    config = CONFIG.model_copy(update={"warmup_share": 0.0})
    assert training.learning_rate(0, 10, config) == 0.4


def test_single_step_has_the_full_learning_rate() -> None:
    assert training.learning_rate(0, 1, CONFIG) == 0.4


@given(
    steps=st.integers(1, 300),
    lr=st.floats(1e-6, 10),
    warmup_share=st.floats(0, 1, exclude_max=True),
)
@settings(derandomize=True, deadline=None)
def test_learning_rate_rises_then_falls_within_its_bounds(
    steps: int, lr: float, warmup_share: float
) -> None:
    config = CONFIG.model_copy(update={"lr": lr, "warmup_share": warmup_share})
    rates = [training.learning_rate(step, steps, config) for step in range(steps)]
    warmup = round(steps * warmup_share)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates) >= 0
    assert max(rates) == pytest.approx(lr)
    assert max(rates) <= lr * (1 + 1e-12)

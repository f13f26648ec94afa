import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from gates.errors import TrainingError
from training.pytorch import loop, snapshots
from training.pytorch.loop import StepReport, Trainer
from training.pytorch.processes import Processes

from toy.config import RunConfig, TrainConfig
from toy.data import Examples
from toy.learner import LEARNER

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
CONFIG = TrainConfig(
    epochs=2,
    batch_size=8,
    accumulation_steps=1,
    lr=0.4,
    weight_decay=0.01,
    warmup_share=0.2,
    clip_norm=1.0,
    mix=0.0,
    noise=0.0,
    precision="float32",
    compile=False,
    deterministic=True,
    snapshot_every=10,
    parallelism="ddp",
    device="cpu",
)

AUGMENTED = {"mix": 0.4, "noise": 0.2}


def new_trainer(config: RunConfig) -> Trainer:
    return loop.new_trainer(loop.new_model(LEARNER, config), config.train)


def trained(config: RunConfig, examples: Examples) -> tuple[nn.Module, list[StepReport]]:
    reports: list[StepReport] = []
    trainer = new_trainer(config)
    loop.fit(trainer, examples, config, LEARNER, on_step=reports.append)
    return trainer.model, reports


def double_trainer(config: RunConfig) -> Trainer:
    """Return a trainer whose weights are float64.

    Adam scales up even a gradient that is only rounding error, so in float32 another summation
    order can move a weight by up to the learning rate.
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


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    return config.model_copy(update={"seed": seed})


class RecordsExamples(nn.Module):
    """Records the examples passed to it; each image must be filled with its index."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))
        self.seen: list[list[int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images[:, 0].int().tolist())
        return self.bias.expand(len(images), -1)


def numbered(examples: Examples) -> Examples:
    numbers = torch.arange(len(examples)).view(-1, 1).expand(-1, 16)
    return dataclasses.replace(examples, images=numbers.float())


def batches_seen(config: RunConfig, examples: Examples) -> list[list[int]]:
    model = RecordsExamples()
    loop.fit(loop.new_trainer(model, config.train), numbered(examples), config, LEARNER)
    return model.seen


def epochs_seen(config: RunConfig, examples: Examples) -> list[list[int]]:
    """Return the examples of each epoch in order; 30 in batches of 8 make four steps."""
    seen = batches_seen(config, examples)
    return [list(itertools.chain(*seen[first : first + 4])) for first in range(0, len(seen), 4)]


def test_same_seed_gives_the_same_new_model(config: RunConfig) -> None:
    assert are_equal(loop.new_model(LEARNER, config), loop.new_model(LEARNER, config))


def test_another_seed_gives_another_new_model(config: RunConfig) -> None:
    assert not are_equal(
        loop.new_model(LEARNER, config), loop.new_model(LEARNER, with_seed(config, 1))
    )


def test_same_seed_gives_the_same_weights(config: RunConfig, training_examples: Examples) -> None:
    one, reports = trained(config, training_examples)
    other, other_reports = trained(config, training_examples)
    assert are_equal(one, other)
    assert reports == other_reports


def test_another_seed_gives_other_weights(config: RunConfig, training_examples: Examples) -> None:
    one, _ = trained(config, training_examples)
    other, _ = trained(with_seed(config, 1), training_examples)
    assert not are_equal(one, other)


def test_training_lowers_the_loss(config: RunConfig, training_examples: Examples) -> None:
    _, reports = trained(with_train(config, epochs=30, lr=0.1), training_examples)
    # Thirty images of noise can only be memorised.
    assert reports[-1].loss < reports[0].loss - 0.5


def test_each_step_is_reported(config: RunConfig, training_examples: Examples) -> None:
    _, reports = trained(with_train(config, epochs=3), training_examples)
    # 30 examples in batches of 8 are 4 steps, the last batch of 6.
    assert [report.step for report in reports] == list(range(1, 13))
    assert [report.epoch for report in reports] == [1] * 4 + [2] * 4 + [3] * 4
    assert [report.ends_epoch for report in reports] == [False, False, False, True] * 3
    train = with_train(config, epochs=3).train
    assert [report.lr for report in reports] == [
        loop.learning_rate(step, 12, train) for step in range(12)
    ]


def test_step_is_counted_before_it_is_reported(
    config: RunConfig, training_examples: Examples
) -> None:
    trainer = new_trainer(config)
    counted: list[tuple[int, int]] = []
    loop.fit(
        trainer,
        training_examples,
        config,
        LEARNER,
        on_step=lambda report: counted.append((report.step, trainer.step)),
    )
    assert counted == [(step, step) for step in range(1, 9)]


def test_first_reported_loss_is_the_untrained_models(
    config: RunConfig, training_examples: Examples
) -> None:
    _, reports = trained(config, training_examples)
    assert reports[0].loss == pytest.approx(math.log(4), abs=1e-6)


def test_reported_loss_is_the_mean_over_the_batch(
    config: RunConfig, training_examples: Examples
) -> None:
    # At this rate the weights barely move, so every batch, even the last of 6, has a loss of ln 4.
    _, reports = trained(with_train(config, lr=1e-12), training_examples)
    assert [report.loss for report in reports] == pytest.approx([math.log(4)] * 8, abs=1e-6)


def test_reported_gradient_norm_is_taken_before_clipping(
    config: RunConfig, training_examples: Examples
) -> None:
    model = loop.new_model(LEARNER, config)
    F.cross_entropy(model(training_examples.images), training_examples.labels).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = math.sqrt(sum(g.pow(2).sum().item() for g in gradients if g is not None))
    whole = with_train(config, batch_size=30, clip_norm=1e-3)
    _, reports = trained(whole, training_examples)
    assert reports[0].gradient_norm == pytest.approx(norm, rel=1e-5)


def test_first_step_uses_the_warm_up_rate(config: RunConfig, training_examples: Examples) -> None:
    # All four steps are warm-up, so the first has a quarter of the rate. Adam's first step moves
    # each weight by the rate, and the head's weights start at zero.
    four_steps = with_train(config, epochs=4, batch_size=30, warmup_share=0.99, lr=0.1)
    model = loop.new_model(LEARNER, four_steps)
    moved: list[float] = []
    loop.fit(
        loop.new_trainer(model, four_steps.train),
        training_examples,
        four_steps,
        LEARNER,
        on_step=lambda _: moved.append(model.get_parameter("head.weight").abs().max().item()),
    )
    assert moved[0] == pytest.approx(0.1 / 4, rel=1e-3)


def test_gradients_are_clipped(config: RunConfig, training_examples: Examples) -> None:
    model, _ = trained(with_train(config, clip_norm=1e-3), training_examples)
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = torch.stack([torch.zeros(()) if g is None else g.norm() for g in gradients]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


def test_model_is_left_in_training_mode(config: RunConfig, training_examples: Examples) -> None:
    trainer = new_trainer(config)
    trainer.model.eval()
    loop.fit(trainer, training_examples, config, LEARNER)
    assert trainer.model.training


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


def test_accumulation_passes_one_micro_batch_at_a_time(
    config: RunConfig, training_examples: Examples
) -> None:
    seen = batches_seen(with_train(config, accumulation_steps=4), training_examples)
    assert [len(micro_batch) for micro_batch in seen] == [*[2] * 12, 2, 2, 1, 1] * 2


# Torch forks its workers, and Python warns of a fork in a process with threads, as under xdist.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_workers_give_the_same_weights_bit_for_bit(
    config: RunConfig, training_examples: Examples, micro_batches: int
) -> None:
    # In batches of 7 the last of an epoch has 2 examples, so some of 4 micro-batches are empty.
    split = with_train(config, epochs=1, batch_size=7, accumulation_steps=micro_batches)
    torch.manual_seed(0)
    in_memory, curve = trained(split, training_examples)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    loaded, other = trained(with_workers(split, 2), training_examples)
    assert are_equal(in_memory, loaded)
    assert curve == other
    # A model that draws random numbers, as for dropout, draws the same ones.
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_workers_load_the_examples(
    config: RunConfig,
    training_examples: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Control for the test above: two other processes really load the examples.
    loaders = tmp_path / "loaders"
    loaders.mkdir()
    take: Callable[..., object] = TensorDataset.__getitem__

    def take_and_record_process(dataset: TensorDataset, index: list[int]) -> object:
        (loaders / str(os.getpid())).touch()
        return take(dataset, index)

    monkeypatch.setattr(TensorDataset, "__getitem__", take_and_record_process)
    trained(with_workers(config, 2), training_examples)
    names = {file.name for file in loaders.iterdir()}
    assert len(names) == 2
    assert str(os.getpid()) not in names


class StoppedError(Exception):
    """Ends a run as a kill would, but in this process."""


@pytest.mark.parametrize("step", range(1, 8))
def test_run_resumed_from_any_step_ends_with_the_same_weights(
    config: RunConfig, training_examples: Examples, tmp_path: Path, step: int
) -> None:
    expected, curve = trained(config, training_examples)
    stopped = new_trainer(config)

    def save_then_stop(report: StepReport) -> None:
        if report.step == step:
            snapshots.save(
                tmp_path, stopped, snapshots.Origin(config=config, data_digest="d" * 64), ALONE
            )
        # Lose one more step if there is one: a kill does not wait for a snapshot.
        if report.step == min(step + 1, 7):
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.fit(stopped, training_examples, config, LEARNER, on_step=save_then_stop)

    resumed = new_trainer(with_seed(config, 99))
    snapshots.restore(tmp_path / f"step-{step:08d}", resumed, ALONE)
    reports: list[StepReport] = []
    loop.fit(resumed, training_examples, config, LEARNER, on_step=reports.append)
    assert are_equal(resumed.model, expected)
    assert reports == curve[step:]


def test_finished_training_takes_no_further_step(
    config: RunConfig, training_examples: Examples
) -> None:
    trainer = new_trainer(config)
    loop.fit(trainer, training_examples, config, LEARNER)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    reports: list[StepReport] = []
    loop.fit(trainer, training_examples, config, LEARNER, on_step=reports.append)
    assert reports == []
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_every_epoch_sees_every_example_once(
    config: RunConfig, training_examples: Examples
) -> None:
    epochs = epochs_seen(with_train(config, epochs=3), training_examples)
    assert len(epochs) == 3
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)


def test_every_epoch_of_every_seed_has_a_different_order(
    config: RunConfig, training_examples: Examples
) -> None:
    # With neighbouring seeds and epochs, seeding with their sum would repeat an order.
    orders = {
        tuple(epoch)
        for seed in range(4)
        for epoch in epochs_seen(with_train(with_seed(config, seed), epochs=3), training_examples)
    }
    assert len(orders) == 12


def test_order_does_not_depend_on_earlier_random_draws(
    config: RunConfig, training_examples: Examples
) -> None:
    before = epochs_seen(config, training_examples)
    torch.rand(3)
    assert epochs_seen(config, training_examples) == before


def test_processes_share_each_batch(config: RunConfig, training_examples: Examples) -> None:
    class TwoProcesses(Processes):
        def sum(self, value: torch.Tensor) -> torch.Tensor:
            return value

    whole = batches_seen(config, training_examples)
    shares = []
    for rank in range(2):
        model = RecordsExamples()
        loop.fit(
            loop.new_trainer(model, config.train),
            numbered(training_examples),
            config,
            LEARNER,
            processes=TwoProcesses(rank=rank, count=2, device=torch.device("cpu")),
        )
        shares.append(model.seen)
    pairs = zip(*shares, strict=True)
    assert [sorted(one + other) for one, other in pairs] == [sorted(batch) for batch in whole]


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


def test_optimizer_is_adamw(config: RunConfig, training_examples: Examples) -> None:
    """Takes three steps by hand: Loshchilov and Hutter (2019), algorithm 2."""
    steps = with_train(config, epochs=3, batch_size=30, clip_norm=1e9, lr=0.01)
    model = loop.new_model(LEARNER, steps).double()
    images, labels = training_examples.images.double(), training_examples.labels
    first = [torch.zeros_like(weights) for weights in model.parameters()]
    second = [torch.zeros_like(weights) for weights in model.parameters()]
    for step in range(3):
        lr = loop.learning_rate(step, 3, steps.train)
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for weights, mean, square in zip(model.parameters(), first, second, strict=True):
            gradient = weights.grad
            assert gradient is not None
            mean.mul_(0.9).add_(0.1 * gradient)
            square.mul_(0.999).add_(0.001 * gradient**2)
            corrected = mean / (1 - 0.9 ** (step + 1))
            scale = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            with torch.no_grad():
                weights.mul_(1 - lr * steps.train.weight_decay).sub_(lr * corrected / scale)
    ours = fit_in_double(double_trainer(steps), steps, training_examples)
    assert largest_difference(ours, model) < 1e-6


def test_fused_optimizer_agrees_with_the_unfused_one(
    config: RunConfig, training_examples: Examples
) -> None:
    fused = double_trainer(config)
    plain = double_trainer(config)
    plain.optimizer = torch.optim.AdamW(
        plain.model.parameters(),
        lr=config.train.lr,
        weight_decay=config.train.weight_decay,
        foreach=False,
        fused=False,
    )
    assert fused.optimizer.defaults["fused"]
    one, other = (fit_in_double(each, config, training_examples) for each in (fused, plain))
    assert largest_difference(one, other) < 1e-6


def first_batch(seed: int) -> list[int]:
    """Return the order of the first epoch, following the module's docstring."""
    words = np.random.SeedSequence([seed, 0]).generate_state(1)
    generator = torch.Generator().manual_seed(int(words[0]))
    order: list[int] = torch.randperm(30, generator=generator).tolist()
    return order


def test_loss_that_is_not_finite_ends_training(
    config: RunConfig, training_examples: Examples
) -> None:
    broken = dataclasses.replace(
        training_examples, images=torch.full_like(training_examples.images, math.inf)
    )
    with pytest.raises(TrainingError) as raised:
        trained(config, broken)
    named = ", ".join(f"{row:016x}" for row in first_batch(0)[:8])
    assert str(raised.value) == (
        "step 1: loss nan, gradient norm nan; lower train.lr, or check the examples in the batch: "
        f"{named}"
    )


def test_loss_that_becomes_infinite_later_names_its_step_and_batch(
    config: RunConfig, training_examples: Examples
) -> None:
    order = first_batch(0)
    images = training_examples.images.clone()
    images[order[-1]] = math.nan
    broken = dataclasses.replace(training_examples, images=images)
    reports: list[StepReport] = []
    with pytest.raises(TrainingError) as raised:
        loop.fit(new_trainer(config), broken, config, LEARNER, on_step=reports.append)
    named = ", ".join(f"{row:016x}" for row in order[24:])
    assert str(raised.value).startswith("step 4: loss nan, gradient norm nan; lower train.lr, ")
    assert str(raised.value).endswith(f" in the batch: {named}")
    assert [report.step for report in reports] == [1, 2, 3]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_gradient_that_is_not_finite_ends_training(
    config: RunConfig, training_examples: Examples, value: float
) -> None:
    model = loop.new_model(LEARNER, config)
    model.get_parameter("head.bias").register_hook(
        lambda gradient: torch.full_like(gradient, value)
    )
    with pytest.raises(
        TrainingError, match=r"^step 1: loss 1\.38\d*, gradient norm (inf|nan); lower"
    ):
        loop.fit(loop.new_trainer(model, config.train), training_examples, config, LEARNER)


def test_weights_spoilt_by_the_last_step_are_detected(
    config: RunConfig, training_examples: Examples
) -> None:
    trainer = new_trainer(with_train(config, epochs=1))

    def spoil(report: StepReport) -> None:
        if report.step == 4:
            with torch.no_grad():
                trainer.model.get_parameter("head.bias")[0] = math.nan

    one_epoch = with_train(config, epochs=1)
    with pytest.raises(TrainingError, match=r"^the last step left head\.bias not finite; lower"):
        loop.fit(trainer, training_examples, one_epoch, LEARNER, on_step=spoil)


def test_learning_rate_of_a_worked_example() -> None:
    # Two of ten steps are warm-up, then half a cosine over eight: 0.2 · (1 + cos 45°) after a
    # quarter of it, 0.2 half-way, 0.2 · (1 + cos 135°) after three quarters.
    rates = [loop.learning_rate(step, 10, CONFIG) for step in (0, 1, 2, 4, 6, 8)]
    expected = [0.2, 0.4, 0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))]
    assert rates == pytest.approx(expected)


def test_learning_rate_without_warm_up_starts_full() -> None:
    config = CONFIG.model_copy(update={"warmup_share": 0.0})
    assert loop.learning_rate(0, 10, config) == 0.4


def test_single_step_has_the_full_learning_rate() -> None:
    assert loop.learning_rate(0, 1, CONFIG) == 0.4


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
    rates = [loop.learning_rate(step, steps, config) for step in range(steps)]
    warmup = round(steps * warmup_share)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates) >= 0
    assert max(rates) == pytest.approx(lr)
    assert max(rates) <= lr * (1 + 1e-12)


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

"""Checks that training on any device agrees with float32 on a CPU up to rounding.

tests/gpu runs these checks on a GPU; tests/unit runs them on the CPU, so that they run everywhere.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.config import TorchDataConfig
from training.pytorch import loop, snapshots
from training.pytorch.loop import StepReport, Trainer
from training.pytorch.processes import Processes

from my_project import data
from my_project.config import ModelConfig, RunConfig, TrainConfig
from my_project.data import Examples
from my_project.learner import LEARNER

MODEL = ModelConfig(image_size=16, channels=3, classes=10, patch_size=4, width=32, depth=2, heads=2)
BATCH = 64  # a quarter of the synthetic data
CURVE_STEPS = 12

# Rounding to bfloat16's 8 significant bits has an error of up to 2^-9 = 0.2 %. A gradient here
# passes about 20 roundings, half of them in the backward pass; as a random walk they add up to at
# most 0.9 %. Measured on a CPU with seeds 0 to 4: 0.45 to 0.61 % of the gradient's norm and 2e-5 of
# the loss.
BFLOAT16_GRADIENT = 0.02
BFLOAT16_LOSS = 3e-4
BFLOAT16_LEAST_ERROR = 1e-3  # a smaller distance means more bits were used

# float32 rounds by up to 6e-8, and another summation order changes a sum by a few times that.
# Products in TF32 (11 bits), which a machine may be configured to allow, still agree: with the
# patch layer's factors cut to 11 bits, a CPU differs by 3e-4 of the gradient and 5e-6 of the loss.
FLOAT32_GRADIENT = 2e-3
FLOAT32_LOSS = 1e-4

# The same cut moves the curve by 1e-5; an optimiser that loses its moments or its step, by 1e-2.
CURVE = 1e-3


def examples() -> Examples:
    """Return learnable synthetic examples: noise plus a pattern for each class."""
    noise = data.synthetic(MODEL)
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn((MODEL.classes, *noise.images.shape[1:]), generator=generator)
    return dataclasses.replace(noise, images=noise.images + patterns[noise.labels])


@dataclass(frozen=True)
class Step:
    """The loss of one step and the gradient of each parameter, on the CPU."""

    loss: float
    gradients: Mapping[str, Tensor]


def config(device: str, **train: object) -> RunConfig:
    """Return a small, deterministic, uncompiled float32 configuration with changes from `train`."""
    plain = TrainConfig(
        epochs=CURVE_STEPS // 4,
        batch_size=BATCH,
        accumulation_steps=1,
        lr=3e-3,
        weight_decay=0.05,
        warmup_share=0.1,
        distortion=0.0,
        mixup=0.0,
        noise=0.0,
        clip_norm=1e6,  # no clipping, so that gradients can be compared
        precision="float32",
        compile=False,
        deterministic=True,
        snapshot_every=1000,
        parallelism="ddp",
        device="cuda" if device == "cuda" else "cpu",
    )
    return RunConfig(
        seed=0,
        tracking="none",
        data=TorchDataConfig(source="synthetic", cache_dir="data", workers=0),
        model=MODEL,
        train=plain.model_copy(update=train),
    )


def fitted(
    run_config: RunConfig, weights: Mapping[str, Tensor] | None = None
) -> tuple[Trainer, list[StepReport]]:
    """Train, from `weights` if given; return the trainer and its step reports."""
    trainer = new_trainer(run_config, weights)
    return trainer, continue_training(trainer, run_config)


def new_trainer(run_config: RunConfig, weights: Mapping[str, Tensor] | None = None) -> Trainer:
    model = loop.new_model(LEARNER, run_config)
    if weights is not None:
        model.load_state_dict(weights)
    processes = processes_of(run_config)
    return loop.new_trainer(processes.distribute(model, run_config.train), run_config.train)


def continue_training(trainer: Trainer, run_config: RunConfig) -> list[StepReport]:
    reports: list[StepReport] = []
    loop.fit(
        trainer,
        examples(),
        run_config,
        LEARNER,
        processes=processes_of(run_config),
        on_step=reports.append,
    )
    return reports


def processes_of(run_config: RunConfig) -> Processes:
    return Processes(rank=0, count=1, device=torch.device(run_config.train.device))


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: weight.cpu().clone() for name, weight in trainer.model.state_dict().items()}


def trained_weights() -> dict[str, Tensor]:
    """Return weights after some training: a new head is zero and passes no gradient back."""
    trainer, _ = fitted(config("cpu", epochs=2))
    return weights_of(trainer)


def step_from(weights: Mapping[str, Tensor], run_config: RunConfig) -> Step:
    """Return the result of one step on all the data."""
    whole = run_config.train.model_copy(update={"epochs": 1, "batch_size": data.SYNTHETIC_EXAMPLES})
    trainer, (report,) = fitted(run_config.model_copy(update={"train": whole}), weights)
    named = trainer.model.named_parameters()
    gradients = {name: weight.grad.cpu() for name, weight in named if weight.grad is not None}
    return Step(report.loss, gradients)


def distance(one: Step, other: Step) -> float:
    """Return the norm of the difference in gradients, relative to the norm of `other`'s."""
    assert one.gradients.keys() == other.gradients.keys()
    names = list(other.gradients)
    difference = math.hypot(*(_norm(one.gradients[n] - other.gradients[n]) for n in names))
    return difference / math.hypot(*(_norm(other.gradients[n]) for n in names))


def _norm(tensor: Tensor) -> float:
    norm: float = tensor.double().norm().item()
    return norm


def assert_step_agrees_with_the_reference(
    weights: Mapping[str, Tensor], run_config: RunConfig
) -> None:
    """Compare a step's loss and gradients with an uncompiled float32 step on the CPU."""
    reference = step_from(weights, config("cpu"))
    step = step_from(weights, run_config)
    is_half = run_config.train.precision == "bfloat16"
    relative_error = distance(step, reference)
    assert relative_error <= (BFLOAT16_GRADIENT if is_half else FLOAT32_GRADIENT)
    if is_half:
        assert relative_error >= BFLOAT16_LEAST_ERROR, "this was computed in float32"
    assert math.isclose(
        step.loss, reference.loss, rel_tol=BFLOAT16_LOSS if is_half else FLOAT32_LOSS
    )


def assert_resumes_on_another_device(folder: Path, first: str, second: str) -> None:
    """Train on one device, resume on the other; compare with a run entirely on the CPU."""
    _, whole = fitted(config("cpu"))
    half = CURVE_STEPS // 2
    before, after = config(first), config(second)
    started = new_trainer(before)

    def abort(report: StepReport) -> None:
        if report.step == half:
            raise StoppedError

    try:
        loop.fit(
            started,
            examples(),
            before,
            LEARNER,
            processes=processes_of(before),
            on_step=abort,
        )
    except StoppedError:
        saved = snapshots.save(
            folder,
            started,
            snapshots.Origin(config=before, data_digest="d" * 64),
            processes_of(before),
        )
    else:
        msg = "the training was not stopped"
        raise AssertionError(msg)

    resumed = new_trainer(after.model_copy(update={"seed": 99}))
    snapshots.restore(saved, resumed, processes_of(after))
    assert resumed.step == half
    _assert_same_state(resumed, started)
    assert all(weight.device.type == second for weight in resumed.model.parameters())

    losses = [report.loss for report in continue_training(resumed, after)]
    expected = [report.loss for report in whole[half:]]
    assert len(losses) == len(expected)
    pairs = list(zip(losses, expected, strict=True))
    assert all(math.isclose(ours, cpus, rel_tol=CURVE) for ours, cpus in pairs), pairs


class StoppedError(Exception):
    """Ends training as a kill would, but in this process."""


def _assert_same_state(one: Trainer, other: Trainer) -> None:
    """Compare weights and optimiser state bit for bit: moving them must not round."""
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    for mine, theirs in pairs:
        assert torch.equal(mine.cpu(), theirs.cpu())
        ours, others = one.optimizer.state[mine], other.optimizer.state[theirs]
        assert ours.keys() == others.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[name].cpu(), others[name].cpu()) for name in ours)

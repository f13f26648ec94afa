"""Training still gives the same losses, step by step, as the golden curve.

There is one curve per version of torch. After a change that is meant to move the curve, run:

    nox -s unit -- tests/unit/my_project/test_golden.py --renew-golden

and the same in the other cells of the matrix, as in `nox -s "matrix(py3.11-torch2.11)" -- …`.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name

from gates.files import write_text
from tasks.project import ROOT
from training import config as configs
from training.pytorch import loop
from training.pytorch.loop import StepReport

from my_project import data
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.learner import LEARNER

FOLDER = Path(__file__).with_name("golden")
FIRST_STEPS = 20
LATER_STEP = 100

# Processors and thread counts change the order of summation, and so the rounding: across one or two
# threads, SSE4, AVX2 and AVX-512, and torch 2.11, 2.13 and 2.15, losses differ by up to 3e-7. A
# learning rate that is 1 % off moves the first losses by 7e-4 and the later loss by 2e-3; bfloat16
# moves them by 8e-4 and 0.1.
FIRST_TOLERANCE = 1e-4
LATER_TOLERANCE = 1e-3


class EnoughError(Exception):
    """Ends training after `LATER_STEP`."""


def curve_of(config: RunConfig, examples: Examples) -> dict[str, list[float]]:
    """Return the losses of the first steps, and a later loss on the whole training split."""
    losses: list[float] = []
    model = loop.new_model(LEARNER, config)

    def record(report: StepReport) -> None:
        losses.append(report.loss)
        if report.step == LATER_STEP:
            raise EnoughError

    with pytest.raises(EnoughError):
        loop.fit(loop.new_trainer(model, config.train), examples, config, LEARNER, on_step=record)
    with torch.inference_mode():
        later = F.cross_entropy(model(examples.images), examples.labels).item()
    return {"first_losses": losses[:FIRST_STEPS], "later_loss": [later]}


def differences(golden: dict[str, list[float]], found: dict[str, list[float]]) -> list[str]:
    """Return a line for each loss that differs by more than rounding."""
    tolerances = {"first_losses": FIRST_TOLERANCE, "later_loss": LATER_TOLERANCE}
    return [
        f"{name}[{position}]: {before:.6f} -> {now:.6f}"
        for name, tolerance in tolerances.items()
        for position, (before, now) in enumerate(zip(golden[name], found[name], strict=True))
        if not abs(now - before) <= tolerance * before
    ]


@pytest.fixture(scope="module")
def ci_tiny(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    cache = tmp_path_factory.mktemp("data")
    return configs.load(RunConfig, ROOT / "configs" / "ci-tiny.yaml", [f"data.cache_dir={cache}"])


@pytest.fixture(scope="module")
def digits(ci_tiny: RunConfig) -> Examples:
    return data.load(data.DATASET.prepare(ci_tiny.data), "train")


@pytest.fixture(scope="module")
def curve(ci_tiny: RunConfig, digits: Examples) -> dict[str, list[float]]:
    return curve_of(ci_tiny, digits)


def test_losses_match_the_golden_curve(
    curve: dict[str, list[float]], request: pytest.FixtureRequest
) -> None:
    version = ".".join(torch.__version__.split(".")[:2])
    file = FOLDER / f"torch-{version}.json"
    cell = f"py{sys.version_info.major}.{sys.version_info.minor}-torch{version}"
    session = f"matrix({data.__package__}, {cell})"
    command = f'nox -s "{session}" -- {Path(__file__).relative_to(ROOT)} --renew-golden'
    if request.config.getoption("--renew-golden"):
        write_text(file, json.dumps(curve, indent=2) + "\n")
    if not file.exists():
        pytest.fail(f"golden/{file.name} is missing; create it: {command}", pytrace=False)
    found = differences(json.loads(file.read_text()), curve)
    assert not found, f"if the change is intended, run: {command}"


def test_change_in_the_numbers_is_detected(
    curve: dict[str, list[float]], ci_tiny: RunConfig, digits: Examples
) -> None:
    # Control for the test above: a rate that is 1 % off moves losses by more than rounding.
    train = ci_tiny.train.model_copy(update={"lr": 1.01 * ci_tiny.train.lr})
    other = curve_of(ci_tiny.model_copy(update={"train": train}), digits)
    assert differences(curve, curve) == []
    detected = {line.split("[")[0] for line in differences(curve, other)}
    assert detected == {"first_losses", "later_loss"}


def test_nan_loss_is_detected(curve: dict[str, list[float]]) -> None:
    broken = {**curve, "later_loss": [float("nan")]}
    assert len(differences(curve, broken)) == 1

"""The number of examples that `gates plan-size` asks for, and its bad input."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from gates.__main__ import main
from gates.evaluation import means
from tests import judged
from tests.judged import metric

MORE = {
    "bits": metric("score.bits", 0.1),
    "ece": metric("ece", 0.1),
}
BITS = ["--metric", "bits", "--spread", "1", "--margin", "0.5"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return judged.write_policy(tmp_path / "policy.yaml", {"metrics": MORE})


def test_the_planned_size_of_a_mean_has_the_planned_power() -> None:
    rng = np.random.default_rng(0)
    size = means.sample_size(2, 0.4, alpha=0.05, power=0.8)
    shown = [
        means.mean(rng.normal(0, 2, size)).p_value_above(-0.4) < 0.05  # the gate's own test
        for _ in range(2000)
    ]
    # Three standard errors of a share of 0.8 in 2,000 simulations.
    assert np.mean(shown) == pytest.approx(0.8, abs=0.027)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The worked example of `statistics.sample_size`.
        pytest.param(
            ["--metric", "accuracy", "--discordance", "0.08"],
            "accuracy: 1,237 held-out examples show non-inferiority at margin 0.02 with "
            "probability 0.8 (alpha 0.05)\n",
            id="accuracy",
        ),
        # ((1.6449 + 0.8416) * 1 / 0.5)^2 = 24.7
        pytest.param(
            BITS,
            "bits: 25 held-out examples show non-inferiority at margin 0.5 with probability 0.8 "
            "(alpha 0.05)\n",
            id="mean",
        ),
        pytest.param(
            [*BITS, "--cluster-size", "11", "--correlation", "0.1"],
            "bits: 50 held-out examples show non-inferiority at margin 0.5 with probability 0.8 "
            "(alpha 0.05)\n  in 5 clusters; design effect 2.00\n",
            id="clusters",
        ),
    ],
)
def test_the_number_is_printed(
    policy: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan-size", "--policy", str(policy), *options]) == 0
    assert capsys.readouterr().out == expected


def test_the_plot_shows_the_number(policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "sizes.svg"
    options = ["--metric", "accuracy", "--discordance", "0.08", "--plot", str(file)]
    assert main(["plan-size", "--policy", str(policy), *options]) == 0
    texts = [each.text for each in ET.parse(file).iter() if each.text]  # noqa: S314 - ours
    assert {"1,237", "margin of accuracy", "held-out examples"} <= set(texts)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--metric", "f1"], "has no metric f1; it has accuracy, bits, ece"),
        (["--metric", "accuracy"], "--discordance: missing; for accuracy, give the share of"),
        (["--metric", "bits"], "--spread: missing; for bits, give the standard deviation"),
        (
            ["--metric", "bits", "--spread", "-1"],
            "--spread: must be a standard deviation",
        ),
        (
            ["--metric", "bits", "--spread", "nan"],
            "--spread: must be a standard deviation",
        ),
        (["--metric", "bits", "--spread", "1", "--difference", "-0.1"], "no number of examples"),
        (["--metric", "bits", "--margin", "0", "--plot", "x.svg"], "--plot: needs a margin above"),
        (["--metric", "ece"], "ece: ece is not a mean over examples, so there is no formula"),
        (
            ["--metric", "bits", "--spread", "1", "--cluster-size", "0"],
            "--cluster-size: must be a number from 1, got 0",
        ),
        (
            ["--metric", "bits", "--spread", "1", "--correlation", "2"],
            "--correlation: must be between 0 and 1, got 2",
        ),
    ],
)
def test_bad_input_is_one_line(
    policy: Path, options: list[str], line: str, refused: Callable[..., str]
) -> None:
    assert line in refused(main, "plan-size", "--policy", policy, *options)

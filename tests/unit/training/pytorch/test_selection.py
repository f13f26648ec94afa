import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
from torch import nn

from gates.errors import ExitCode, TrainingError
from tests.toy_runs import (
    Request,
    are_equal,
    changed,
    lines_of,
    resumed,
    train_until,
    weights_of,
    without_seconds,
)
from training import config as configs
from training import runs
from training.pytorch.outputs import mean_score
from training.pytorch.selection import Selection

from toy.config import RunConfig
from toy.learner import METHOD, is_right
from toy.project import PROJECT

MEASURE = "validation_accuracy"
STEPS_PER_EPOCH = 4


@pytest.fixture
def long(run_request: Request) -> Request:
    """Ten epochs at a rate so high that the score goes up and down."""
    return changed(run_request, "train", epochs=10, lr=0.05)


def scores_of(folder: Path) -> list[float]:
    return [line[MEASURE] for line in lines_of(folder) if line["ends_epoch"]]


def best_epoch(scores: list[float]) -> int:
    return scores.index(max(scores)) + 1


@pytest.mark.parametrize(
    ("better", "patience", "scores", "stops_after", "best"),
    [
        pytest.param("higher", 2, [0.5, 0.7, 0.6, 0.65], 4, 2, id="higher"),
        pytest.param("lower", 2, [0.5, 0.4, 0.6, 0.45], 4, 2, id="lower"),
        pytest.param("higher", 1, [0.5, 0.5, 0.9], 2, 1, id="equal_is_not_better"),
        pytest.param("higher", 3, [0.5, 0.4, 0.4, 0.6, 0.5], None, 4, id="improves_in_time"),
        pytest.param("lower", 1, [3.0, 2.0, 1.0], None, 3, id="always_improves"),
        pytest.param("lower", None, [1.0, 2.0, 3.0, 4.0], None, 1, id="never_stops"),
        pytest.param("higher", 1, [-5.0, -6.0], 2, 1, id="negative"),
    ],
)
def test_training_stops_after_patience_epochs_without_improvement(
    better: Literal["higher", "lower"],
    patience: int | None,
    scores: list[float],
    stops_after: int | None,
    best: int,
) -> None:
    selection = Selection(better=better, patience=patience)
    model = nn.Linear(1, 1)
    stopped = None
    for epoch, score in enumerate(scores, start=1):
        if selection.stops_after(epoch, score, model):
            stopped = epoch
            break
    assert (stopped, selection.epoch, selection.score) == (stops_after, best, scores[best - 1])


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_ends_the_run(score: float) -> None:
    selection = Selection(better="higher", patience=None)
    with pytest.raises(
        TrainingError, match=f"^epoch 1: the validation score is {score}, "
    ) as raised:
        selection.stops_after(1, score, nn.Linear(1, 1))
    assert raised.value.exit_code == ExitCode.FAILED


def test_the_checkpoint_holds_the_best_epoch(
    long: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = METHOD.load(runs.train(changed(long, "train", keep="best")))
    scores = scores_of(long.outputs / "run")
    best = best_epoch(scores)
    assert len(scores) == 10
    assert best < 10, "the best epoch is the last, so this test shows nothing"
    assert checkpoint.step == best * STEPS_PER_EPOCH
    validation = PROJECT.examples(long.config, "validation", "")
    assert mean_score(METHOD.model(checkpoint), validation, is_right) == max(scores)
    output = capsys.readouterr().out
    assert f"the checkpoint holds epoch {best}, validation accuracy {max(scores):.4f}\n" in output
    assert "stopped" not in output


def test_early_stopped_run_is_a_prefix_of_the_full_run(
    long: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = runs.train(long).parent
    scores = scores_of(whole)
    patience = 2
    best = next(
        epoch
        for epoch in range(1, 9)
        if max(scores[epoch : epoch + patience]) <= max(scores[:epoch]) == scores[epoch - 1]
    )
    capsys.readouterr()
    early = runs.train(
        changed(dataclasses.replace(long, run_id="early"), "train", patience=patience)
    ).parent
    assert len(scores_of(early)) == best + patience < 10
    assert without_seconds(early) == without_seconds(whole)[: (best + patience) * STEPS_PER_EPOCH]
    assert METHOD.load(early / "checkpoint.pt").step == (best + patience) * STEPS_PER_EPOCH
    assert (
        f"stopped after epoch {best + patience}/10: no improvement since epoch {best}, "
        f"validation accuracy {scores[best - 1]:.4f}\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 1.0])
def test_a_resumed_run_selects_the_same_epoch(long: Request, share: float) -> None:
    selecting = changed(long, "train", keep="best", patience=3)
    whole = runs.train(selecting).parent
    steps = len(lines_of(whole))
    assert METHOD.load(whole / "checkpoint.pt").step < steps < 10 * STEPS_PER_EPOCH
    again = dataclasses.replace(selecting, run_id="again")
    folder = train_until(again, round(share * steps))
    runs.train(resumed(again))
    assert without_seconds(folder) == without_seconds(whole)
    assert are_equal(weights_of(folder), weights_of(whole))


def test_a_configuration_without_these_options_still_loads(long: Request) -> None:
    tree = long.config.model_dump()
    del tree["train"]["patience"], tree["train"]["keep"]
    assert configs.validate(RunConfig, tree, where="old.yaml") == long.config

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
def long(asked: Request) -> Request:
    """Ten epochs at a high rate, so that the score goes up and down."""
    return changed(asked, "train", epochs=10, lr=0.05)


def scores_of(folder: Path) -> list[float]:
    return [line[MEASURE] for line in lines_of(folder) if line["ends_epoch"]]


def best_epoch(scores: list[float]) -> int:
    return scores.index(max(scores)) + 1


@pytest.mark.parametrize(
    ("better", "patience", "scores", "stops", "best"),
    [
        pytest.param("higher", 2, [0.5, 0.7, 0.6, 0.65], 4, 2, id="higher"),
        pytest.param("lower", 2, [0.5, 0.4, 0.6, 0.45], 4, 2, id="lower"),
        pytest.param("higher", 1, [0.5, 0.5, 0.9], 2, 1, id="an_equal_epoch_is_no_better"),
        pytest.param("higher", 3, [0.5, 0.4, 0.4, 0.6, 0.5], None, 4, id="in_time"),
        pytest.param("lower", 1, [3.0, 2.0, 1.0], None, 3, id="always_better"),
        pytest.param("lower", None, [1.0, 2.0, 3.0, 4.0], None, 1, id="never_stops"),
        pytest.param("higher", 1, [-5.0, -6.0], 2, 1, id="negative"),
    ],
)
def test_training_stops_when_no_epoch_is_better_for_as_long_as_it_waits(
    better: Literal["higher", "lower"],
    patience: int | None,
    scores: list[float],
    stops: int | None,
    best: int,
) -> None:
    selection = Selection(better=better, patience=patience)
    model = nn.Linear(1, 1)
    stopped = None
    for epoch, score in enumerate(scores, start=1):
        if selection.stops_after(epoch, score, model):
            stopped = epoch
            break
    assert (stopped, selection.epoch, selection.score) == (stops, best, scores[best - 1])


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_cannot_be_compared_ends_the_run(score: float) -> None:
    selection = Selection(better="higher", patience=None)
    with pytest.raises(TrainingError, match=f"^epoch 1: the validation score is {score}, ") as told:
        selection.stops_after(1, score, nn.Linear(1, 1))
    assert told.value.exit_code == ExitCode.FAILED


def test_the_checkpoint_holds_the_best_epoch(
    long: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = METHOD.load(runs.train(changed(long, "train", keep="best")))
    scores = scores_of(long.outputs / "run")
    best = best_epoch(scores)
    assert len(scores) == 10
    assert best < 10, "else it would hold the last one anyway"
    assert checkpoint.step == best * STEPS_PER_EPOCH
    validation = PROJECT.examples(long.config, "validation", "")
    assert mean_score(METHOD.model(checkpoint), validation, is_right) == max(scores)
    told = capsys.readouterr().out
    assert f"the checkpoint holds epoch {best}, validation accuracy {max(scores):.4f}\n" in told
    assert "stopped" not in told


def test_training_that_stops_early_is_the_beginning_of_the_whole(
    long: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = runs.train(long).parent
    scores = scores_of(whole)
    waits = 2
    best = next(
        epoch
        for epoch in range(1, 9)
        if max(scores[epoch : epoch + waits]) <= max(scores[:epoch]) == scores[epoch - 1]
    )
    capsys.readouterr()
    early = runs.train(
        changed(dataclasses.replace(long, run_id="early"), "train", patience=waits)
    ).parent
    assert len(scores_of(early)) == best + waits < 10
    assert without_seconds(early) == without_seconds(whole)[: (best + waits) * STEPS_PER_EPOCH]
    assert METHOD.load(early / "checkpoint.pt").step == (best + waits) * STEPS_PER_EPOCH
    assert (
        f"stopped after epoch {best + waits}/10: no improvement since epoch {best}, "
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


def test_a_configuration_from_before_these_options_is_read(long: Request) -> None:
    tree = long.config.model_dump()
    del tree["train"]["patience"], tree["train"]["keep"]
    assert configs.validate(RunConfig, tree, where="old.yaml") == long.config

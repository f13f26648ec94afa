"""Predictions of a checkpoint, and the smoke check that a registered model reproduces them."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gates.errors import AnswerError, CheckpointError, GateError
from gates.evaluation.predictions import Predictions, open_predictions, write_predictions
from training.pytorch import checkpoint as checkpoints
from training.pytorch import loop
from training.pytorch.outputs import mean_score, outputs

from my_project import evaluation
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.learner import LEARNER, is_right
from my_project.project import smoke


@pytest.fixture
def predictions(checkpoint: Path, held_out_examples: Examples) -> Predictions:
    return evaluation.predict(checkpoint, held_out_examples)


def test_accuracy_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = loop.new_model(LEARNER, config)
    # The head's weights are zero, so its bias decides: every prediction is 3, right for 2 of 20.
    torch.nn.init.ones_(model.get_parameter("head.bias")[3:4])
    assert mean_score(model, held_out_examples, is_right) == pytest.approx(0.1)


def test_probabilities_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = loop.new_model(LEARNER, config)
    torch.nn.init.constant_(model.get_parameter("head.bias")[3:4], np.log(11))
    scores = outputs(model, held_out_examples.images).softmax(dim=1)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores[:, 3], torch.full((20,), 11 / 20, dtype=torch.float64))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(20, dtype=torch.float64))


def test_predictions_carry_their_evidence(
    predictions: Predictions, checkpoint: Path, data_file: Path
) -> None:
    assert predictions.checkpoint_digest == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert predictions.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_predictions_are_the_most_probable_classes(
    predictions: Predictions, held_out_examples: Examples
) -> None:
    assert predictions.probabilities is not None
    assert predictions.probabilities.shape == (20, 10)
    most_probable = [row.tolist().index(row.max()) for row in predictions.probabilities]
    assert predictions.predictions.tolist() == most_probable
    assert predictions.ids.tolist() == held_out_examples.ids.tolist()
    assert predictions.labels.tolist() == held_out_examples.labels.tolist()


def test_predictions_have_the_subgroups_of_the_project(
    predictions: Predictions, held_out_examples: Examples
) -> None:
    assert predictions.subgroups.keys() == {"digit", "thickness"}
    assert predictions.subgroups["digit"].tolist() == [str(row % 10) for row in range(20)]
    assert predictions.subgroups["thickness"].tolist() == held_out_examples.thicknesses.tolist()


@pytest.fixture
def project(tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's configuration at its default path."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "configs" / "base.yaml"
    file.parent.mkdir()
    return Path(shutil.copy(config_file, file))


@pytest.fixture
def registered(project: Path, checkpoint: Path, candidate: Path) -> Path:
    """A folder with the files of a registered version that the smoke check reads."""
    assert project.exists()
    assert candidate.parent == checkpoint.parent
    return checkpoint.parent


def test_smoke_check_passes_for_reproduced_predictions(registered: Path) -> None:
    smoke(registered)


@pytest.fixture
def candidate(checkpoint: Path, predictions: Predictions) -> Path:
    file = checkpoint.with_name("predictions.parquet")
    write_predictions(predictions, file)
    return file


def test_predictions_name_the_configuration_digest(
    candidate: Path, checkpoint: Path, trained: Path
) -> None:
    written = hashlib.sha256((trained / "config.yaml").read_bytes()).hexdigest()
    assert open_predictions(candidate).digests["config"] == written
    assert checkpoint.exists()


def test_damaged_candidate_is_refused(checkpoint: Path, held_out_examples: Examples) -> None:
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=str(checkpoint)):
        evaluation.predict(checkpoint, held_out_examples)


def test_checkpoint_for_other_images_is_refused(
    config: RunConfig, held_out_examples: Examples, tmp_path: Path
) -> None:
    larger = config.model_copy(update={"model": config.model.model_copy(update={"image_size": 16})})
    file = tmp_path / "larger.pt"
    weights = loop.new_model(LEARNER, larger).state_dict()
    checkpoints.save(
        checkpoints.Checkpoint(weights=dict(weights), config=larger, data_digest="", step=0), file
    )
    with pytest.raises(GateError, match=str(file)):
        evaluation.predict(file, held_out_examples)


def test_smoke_check_refuses_other_predictions(registered: Path, predictions: Predictions) -> None:
    other = (predictions.predictions + 1) % 10
    changed = dataclasses.replace(predictions, predictions=other)
    write_predictions(changed, registered / "predictions.parquet")
    with pytest.raises(AnswerError, match="prediction of "):
        smoke(registered)

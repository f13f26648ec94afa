import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gates.errors import AnswerError, CheckpointError, GateInputError
from gates.evaluation.policy import Policy
from gates.evaluation.predictions import Predictions, open_predictions, write_predictions
from gates.verdicts.verdict import Outcome
from tests import judged
from tests.judged import in_order
from training import evaluation as judging
from training.pytorch import loop
from training.pytorch.outputs import mean_score, outputs

from toy.config import RunConfig
from toy.data import Examples
from toy.learner import LEARNER, is_right
from toy.project import PROJECT, predict


@pytest.fixture
def predictions(checkpoint: Path, held_out_examples: Examples) -> Predictions:
    return predict(checkpoint, held_out_examples)


def test_accuracy_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = loop.new_model(LEARNER, config)
    # The head's weights are zero, so its bias decides: every prediction is 3, right for 5 of 20.
    torch.nn.init.ones_(model.get_parameter("head.bias")[3:4])
    assert mean_score(model, held_out_examples, is_right) == pytest.approx(0.25)


def test_probabilities_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = loop.new_model(LEARNER, config)
    torch.nn.init.constant_(model.get_parameter("head.bias")[3:4], np.log(11))
    scores = outputs(model, held_out_examples.images).softmax(dim=1)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores[:, 3], torch.full((20,), 11 / 14, dtype=torch.float64))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(20, dtype=torch.float64))


def test_examples_beyond_one_batch_are_all_scored(
    config: RunConfig, held_out_examples: Examples
) -> None:
    model = loop.new_model(LEARNER, config)
    torch.nn.init.normal_(model.get_parameter("head.weight"))
    many = dataclasses.replace(held_out_examples, images=held_out_examples.images.repeat(60, 1))
    scores = outputs(model, many.images)
    assert scores.shape == (1200, 4)
    torch.testing.assert_close(scores[-20:], outputs(model, held_out_examples.images))


@pytest.mark.parametrize("is_training", [True, False])
def test_scoring_keeps_the_mode_of_the_model(
    config: RunConfig, held_out_examples: Examples, *, is_training: bool
) -> None:
    model = loop.new_model(LEARNER, config).train(is_training)
    outputs(model, held_out_examples.images)
    assert model.training == is_training


def test_predictions_carry_their_evidence(
    predictions: Predictions, checkpoint: Path, data_file: Path
) -> None:
    assert predictions.checkpoint_digest == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert predictions.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_predictions_are_the_most_probable_classes(
    predictions: Predictions, held_out_examples: Examples
) -> None:
    assert predictions.probabilities is not None
    assert predictions.probabilities.shape == (20, 4)
    most_probable = [row.tolist().index(row.max()) for row in predictions.probabilities]
    assert predictions.predictions.tolist() == most_probable
    assert predictions.ids.tolist() == held_out_examples.ids.tolist()
    assert predictions.labels.tolist() == held_out_examples.labels.tolist()


@pytest.fixture
def project(tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's configuration at its default path."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "configs" / "base.yaml"
    file.parent.mkdir()
    return Path(shutil.copy(config_file, file))


@pytest.mark.usefixtures("project")
def test_held_out_examples_come_from_the_project_configuration(
    checkpoint: Path, data_file: Path
) -> None:
    examples = judging.held_out_examples(PROJECT, checkpoint)
    assert len(examples) == 20
    assert examples.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_configuration_may_name_other_data(
    checkpoint: Path, config_file: Path, data_file: Path
) -> None:
    data_file.write_bytes(b"damaged")
    with pytest.raises(GateInputError, match=str(data_file)):
        judging.held_out_examples(PROJECT, checkpoint, config_file)


@pytest.fixture
def registered(project: Path, checkpoint: Path, candidate: Path) -> Path:
    """A folder with the files of a registered version that the smoke check reads."""
    assert project.exists()
    assert candidate.parent == checkpoint.parent
    return checkpoint.parent


def test_a_model_that_reproduces_its_predictions_passes(registered: Path) -> None:
    judging.check_answers(PROJECT, registered)


def edited(predictions: Predictions, /, **fields: Any) -> Predictions:
    return dataclasses.replace(predictions, **fields)


def first_wrong_row(predictions: Predictions) -> int:
    return int(np.argmax(predictions.predictions != predictions.labels))


def changed_label(predictions: Predictions) -> Predictions:
    row, labels = first_wrong_row(predictions), predictions.labels.copy()
    labels[row] = predictions.predictions[row]
    return edited(predictions, labels=labels)


def changed_prediction(predictions: Predictions) -> Predictions:
    row, answers = first_wrong_row(predictions), predictions.predictions.copy()
    answers[row] = predictions.labels[row]
    return edited(predictions, predictions=answers)


def changed_probabilities(predictions: Predictions) -> Predictions:
    assert predictions.probabilities is not None
    probabilities = predictions.probabilities.copy()
    probabilities[-1] = np.eye(4)[0]
    return edited(predictions, probabilities=probabilities)


def changed_subgroup(predictions: Predictions) -> Predictions:
    subgroups = {**predictions.subgroups, "brightness": predictions.subgroups["brightness"][::-1]}
    return edited(predictions, subgroups=subgroups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_label, "label of "),
        (changed_prediction, "prediction of "),
        (changed_probabilities, "probabilities of "),
        (changed_subgroup, "brightness of "),
        (lambda every: in_order(every, range(19)), "do not list the 20 held-out examples"),
        (lambda every: edited(every, subgroups={}), "the predictions have the columns id, "),
        (lambda every: edited(every, probabilities=None), "the predictions have the columns id, "),
        (lambda every: edited(every, config_digest="0" * 64), "name the config 000000000000"),
        (lambda every: edited(every, checkpoint_digest="0" * 64), "name the checkpoint 0000"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_predictions_from_another_model_are_reported(
    registered: Path, predictions: Predictions, change: Callable[..., Predictions], message: str
) -> None:
    write_predictions(change(predictions), registered / "predictions.parquet")
    with pytest.raises(AnswerError, match=message):
        judging.check_answers(PROJECT, registered)


def test_a_model_judged_on_other_data_cannot_be_checked(
    registered: Path, predictions: Predictions
) -> None:
    changed = edited(predictions, data_digest="0" * 64)
    write_predictions(changed, registered / "predictions.parquet")
    with pytest.raises(GateInputError, match=r"judged on the data 000000000000, but configs/base"):
        judging.check_answers(PROJECT, registered)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return judged.policy(tmp_path, {"accuracy.margin": 0.3})


@pytest.fixture
def candidate(checkpoint: Path, predictions: Predictions) -> Path:
    file = checkpoint.with_name("predictions.parquet")
    write_predictions(predictions, file)
    return file


def test_baseline_checkpoint_is_scored_and_its_predictions_kept(
    checkpoint: Path, candidate: Path, held_out_examples: Examples, policy: Policy
) -> None:
    verdict = judging.compare(
        PROJECT,
        candidate,
        checkpoint,
        policy,
        name="production",
        examples=held_out_examples,
        allow_same_model=True,
    )
    assert verdict.outcome is Outcome.PASS
    assert verdict.metrics["difference"] == 0
    assert verdict.evidence["baseline"] == verdict.evidence["checkpoint"]
    kept = candidate.with_name("baseline_predictions.parquet")
    assert kept.read_bytes() == candidate.read_bytes()


@pytest.mark.parametrize("name", ["baseline.parquet", "download"])
def test_baseline_predictions_are_used_unchanged(
    candidate: Path,
    predictions: Predictions,
    policy: Policy,
    held_out_examples: Examples,
    name: str,
) -> None:
    perfect = dataclasses.replace(
        predictions, predictions=predictions.labels, checkpoint_digest="b" * 64
    )
    baseline = candidate.with_name(name)
    write_predictions(perfect, baseline)
    verdict = judging.compare(
        PROJECT, candidate, baseline, policy, name="production", examples=held_out_examples
    )
    assert verdict.outcome is Outcome.FAIL
    assert verdict.metrics["baseline_accuracy"] == 1
    assert not candidate.with_name("baseline_predictions.parquet").exists()


def test_baseline_scored_on_other_data_is_reported_by_its_given_name(
    candidate: Path, predictions: Predictions, policy: Policy, held_out_examples: Examples
) -> None:
    baseline = candidate.with_name("other.parquet")
    write_predictions(dataclasses.replace(predictions, data_digest="0" * 64), baseline)
    with pytest.raises(GateInputError, match=r"^production: scored on other data"):
        judging.compare(
            PROJECT, candidate, baseline, policy, name="production", examples=held_out_examples
        )


def test_first_release_is_judged_against_the_floors(
    candidate: Path, predictions: Predictions, policy: Policy
) -> None:
    verdict = judging.accept_without_baseline(candidate, policy, why="first")
    right = (predictions.predictions == predictions.labels).mean()
    assert verdict.metrics["accuracy"] == right
    assert verdict.notes == {"no baseline": "first"}


def test_predictions_name_the_configuration_digest(
    candidate: Path, checkpoint: Path, trained: Path
) -> None:
    written = hashlib.sha256((trained / "config.yaml").read_bytes()).hexdigest()
    assert open_predictions(candidate).digests["config"] == written
    assert checkpoint.exists()


def test_damaged_candidate_is_refused(checkpoint: Path, held_out_examples: Examples) -> None:
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=str(checkpoint)):
        predict(checkpoint, held_out_examples)

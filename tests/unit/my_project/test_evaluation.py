import dataclasses
import hashlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from gates.errors import CheckpointError, GateError, GateInputError
from gates.predictions import Predictions, read_predictions, write_predictions
from gates.verdict import Outcome
from my_project import checkpoint as checkpoints
from my_project import evaluation, training
from my_project.config import RunConfig
from my_project.data import Examples


@pytest.fixture
def predictions(checkpoint: Path, held_out_examples: Examples) -> Predictions:
    return evaluation.predict(checkpoint, held_out_examples)


def test_accuracy_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = training.new_model(config)
    # With no weights in the head, its bias alone decides: every image is a 3, and 2 of 20 are.
    torch.nn.init.ones_(model.head.bias[3:4])
    assert evaluation.accuracy(model, held_out_examples) == pytest.approx(0.1)


def test_probabilities_of_a_worked_example(config: RunConfig, held_out_examples: Examples) -> None:
    model = training.new_model(config)
    torch.nn.init.constant_(model.head.bias[3:4], np.log(11))
    scores = evaluation.probabilities(model, held_out_examples)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores[:, 3], torch.full((20,), 11 / 20, dtype=torch.float64))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(20, dtype=torch.float64))


def test_more_examples_than_fit_one_batch_are_all_scored(
    config: RunConfig, held_out_examples: Examples
) -> None:
    model = training.new_model(config)
    torch.nn.init.normal_(model.head.weight)
    many = dataclasses.replace(
        held_out_examples, images=held_out_examples.images.repeat(60, 1, 1, 1)
    )
    scores = evaluation.probabilities(model, many)
    assert scores.shape == (1200, 10)
    torch.testing.assert_close(scores[-20:], evaluation.probabilities(model, held_out_examples))


@pytest.mark.parametrize("is_training", [True, False])
def test_scoring_leaves_the_mode_of_the_model(
    config: RunConfig, held_out_examples: Examples, *, is_training: bool
) -> None:
    model = training.new_model(config).train(is_training)
    evaluation.probabilities(model, held_out_examples)
    assert model.training == is_training


def test_predictions_carry_their_evidence(
    predictions: Predictions, checkpoint: Path, data_file: Path
) -> None:
    assert predictions.checkpoint_digest == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert predictions.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_predictions_are_the_likeliest_classes(
    predictions: Predictions, held_out_examples: Examples
) -> None:
    assert predictions.probabilities is not None
    assert predictions.probabilities.shape == (20, 10)
    likeliest = [row.tolist().index(row.max()) for row in predictions.probabilities]
    assert predictions.predictions.tolist() == likeliest
    assert predictions.ids.tolist() == held_out_examples.ids.tolist()
    assert predictions.labels.tolist() == held_out_examples.labels.tolist()


def test_predictions_have_the_subgroups_of_the_project(
    predictions: Predictions, held_out_examples: Examples
) -> None:
    assert predictions.subgroups.keys() == {"digit", "thickness"}
    assert predictions.subgroups["digit"].tolist() == [str(row % 10) for row in range(20)]
    assert predictions.subgroups["thickness"].tolist() == held_out_examples.thicknesses.tolist()


def test_held_out_examples_are_those_of_the_checkpoint(checkpoint: Path, trained: Path) -> None:
    examples = evaluation.held_out_examples(checkpoint)
    file = trained.parent.parent / "data" / "digits.parquet"
    assert len(examples) == 20
    assert examples.data_digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_configuration_may_name_other_data(
    checkpoint: Path, config_file: Path, data_file: Path
) -> None:
    data_file.write_bytes(b"damaged")
    with pytest.raises(GateInputError, match=str(data_file)):
        evaluation.held_out_examples(checkpoint, config_file)


@pytest.mark.parametrize(
    "kind", ["path", "file_uri", "memory_uri", "predictions", "predictions_uri"]
)
def test_model_is_not_worse_than_itself(
    checkpoint: Path, held_out_examples: Examples, predictions: Predictions, kind: str
) -> None:
    table = checkpoint.with_name("baseline.parquet")
    write_predictions(predictions, table)
    for file in (checkpoint, table):
        with fsspec.open(f"memory://baseline/{file.name}", "wb") as stream:
            stream.write(file.read_bytes())
    uri = {
        "path": str(checkpoint),
        "file_uri": checkpoint.as_uri(),
        "memory_uri": "memory://baseline/checkpoint.pt",
        "predictions": str(table),
        "predictions_uri": "memory://baseline/baseline.parquet",
    }[kind]
    written = checkpoint.with_name("predictions.parquet")
    verdict = evaluation.compare(
        checkpoint, uri, margin=0.0, examples=held_out_examples, written_to=written
    )
    assert verdict.outcome is Outcome.PASS
    assert verdict.metrics["difference"] == 0
    assert verdict.evidence["baseline"] == verdict.evidence["checkpoint"]


def test_predictions_of_the_candidate_are_written(
    checkpoint: Path, held_out_examples: Examples, predictions: Predictions
) -> None:
    written = checkpoint.with_name("predictions.parquet")
    evaluation.compare(
        checkpoint, str(checkpoint), margin=0.0, examples=held_out_examples, written_to=written
    )
    assert read_predictions(written).predictions.tolist() == predictions.predictions.tolist()


def test_better_baseline_fails_the_candidate(
    checkpoint: Path, held_out_examples: Examples, predictions: Predictions
) -> None:
    perfect = dataclasses.replace(predictions, predictions=predictions.labels)
    baseline = checkpoint.with_name("perfect.parquet")
    write_predictions(perfect, baseline)
    verdict = evaluation.compare(
        checkpoint,
        str(baseline),
        margin=0.02,
        examples=held_out_examples,
        written_to=checkpoint.with_name("predictions.parquet"),
    )
    assert verdict.outcome is Outcome.FAIL
    assert verdict.metrics["baseline_accuracy"] == 1


def test_baseline_scored_on_other_data_leaves_no_predictions(
    checkpoint: Path, held_out_examples: Examples, predictions: Predictions
) -> None:
    baseline = checkpoint.with_name("other.parquet")
    write_predictions(dataclasses.replace(predictions, data_digest="0" * 64), baseline)
    written = checkpoint.with_name("predictions.parquet")
    with pytest.raises(GateInputError, match="scored on other data"):
        evaluation.compare(
            checkpoint, str(baseline), margin=0.02, examples=held_out_examples, written_to=written
        )
    assert not written.exists()


def test_first_release_is_scored(checkpoint: Path, held_out_examples: Examples) -> None:
    written = checkpoint.with_name("predictions.parquet")
    verdict = evaluation.accept_without_baseline(
        checkpoint, why="first", examples=held_out_examples, written_to=written
    )
    assert verdict.metrics["accuracy"] == read_predictions(written).accuracy
    assert verdict.notes == {"no baseline": "first"}


@pytest.mark.parametrize(
    ("uri", "explanation"),
    [
        pytest.param("nosuch://x", "Protocol not known: nosuch", id="unknown_protocol"),
        pytest.param("memory://x", "the baseline cannot be read", id="nothing_there"),
        pytest.param("models:/digits@production", "the baseline cannot be read", id="registry"),
        pytest.param("absent.pt", "no such baseline", id="missing_checkpoint"),
        pytest.param("absent.parquet", "no such baseline", id="missing_predictions"),
    ],
)
def test_baseline_that_cannot_be_read_is_an_error(
    checkpoint: Path, held_out_examples: Examples, uri: str, explanation: str
) -> None:
    written = checkpoint.with_name("predictions.parquet")
    with pytest.raises(GateError, match=explanation) as raised:
        evaluation.compare(
            checkpoint, uri, margin=0.02, examples=held_out_examples, written_to=written
        )
    assert str(raised.value).startswith(f"{uri}: ")
    assert not written.exists()


@pytest.mark.parametrize("name", ["damaged.pt", "damaged.parquet"])
def test_damaged_baseline_is_named_as_it_was_given(
    checkpoint: Path, held_out_examples: Examples, name: str
) -> None:
    # Not as the temporary copy that is gone when the message is read.
    uri = f"memory://damaged/{name}"
    with fsspec.open(uri, "wb") as stream:
        stream.write(b"damaged")
    with pytest.raises(GateError, match=f"^{uri}: "):
        evaluation.compare(
            checkpoint,
            uri,
            margin=0.02,
            examples=held_out_examples,
            written_to=checkpoint.with_name("predictions.parquet"),
        )


def test_damaged_candidate_is_refused(checkpoint: Path, held_out_examples: Examples) -> None:
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=str(checkpoint)):
        evaluation.predict(checkpoint, held_out_examples)


def test_checkpoint_for_other_images_is_refused(
    config: RunConfig, held_out_examples: Examples, tmp_path: Path
) -> None:
    larger = config.model_copy(update={"model": config.model.model_copy(update={"image_size": 16})})
    file = tmp_path / "larger.pt"
    weights = training.new_model(larger).state_dict()
    checkpoints.save(
        checkpoints.Checkpoint(weights=dict(weights), config=larger, data_digest="", step=0), file
    )
    with pytest.raises(GateError, match=str(file)):
        evaluation.predict(file, held_out_examples)

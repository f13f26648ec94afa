"""The figures of a model's predictions, against scikit-learn and by hand."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from gates.errors import GateInputError
from gates.evaluation.predictions import Predictions
from training import scores


def predictions_of(n: int = 200, classes: int = 4, *, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.5), size=n)
    labels = np.array([rng.choice(classes, p=row) for row in probabilities])
    return Predictions(
        ids=np.array([f"example-{number}" for number in range(n)]),
        labels=labels,
        predictions=probabilities.argmax(axis=1),
        data_digest="a" * 64,
        checkpoint_digest="b" * 64,
        probabilities=probabilities,
        subgroups={"size": np.where(rng.random(n) < 0.3, "small", "large")},
    )


def test_overall_figures_are_scikit_learns() -> None:
    given = predictions_of()
    assert given.probabilities is not None
    overall = scores.scores_of(given, given.probabilities)["all"]["overall"]
    assert overall["n"] == 200
    assert overall["accuracy"] == accuracy_score(given.labels, given.predictions)
    assert overall["nll"] == pytest.approx(log_loss(given.labels, given.probabilities))


@pytest.mark.parametrize("column", ["class", "size"])
def test_each_part_is_scored_on_its_own_examples(column: str) -> None:
    given = predictions_of()
    assert given.probabilities is not None
    values = given.subgroups["size"] if column == "size" else given.labels.astype(np.str_)
    by_value = scores.scores_of(given, given.probabilities)[column]
    assert set(by_value) == set(values)
    assert sum(part["n"] for part in by_value.values()) == 200
    for value, part in by_value.items():
        chosen = values == value
        expected = accuracy_score(given.labels[chosen], given.predictions[chosen])
        assert part["accuracy"] == expected


def test_calibration_error_of_a_model_that_is_always_sure_is_its_error_rate() -> None:
    probabilities = np.eye(4)[[0, 1, 2, 3, 0, 0, 0, 0]]
    labels = np.array([0, 1, 2, 3, 0, 0, 1, 1])
    given = Predictions(
        ids=np.array(list("abcdefgh")),
        labels=labels,
        predictions=probabilities.argmax(axis=1),
        data_digest="a" * 64,
        checkpoint_digest="b" * 64,
    )
    assert scores.scores_of(given, probabilities)["all"]["overall"]["ece"] == pytest.approx(2 / 8)


def test_confusion_matrix_is_scikit_learns() -> None:
    given = predictions_of()
    expected = confusion_matrix(given.labels, given.predictions, labels=range(4))
    assert np.array_equal(scores.confusion_matrix(given), expected)


def test_classes_that_nobody_has_stay_in_the_matrix() -> None:
    given = predictions_of(n=3, classes=6)
    assert scores.confusion_matrix(given).shape == (6, 6)


def test_files_are_figures_and_pictures_that_are_the_same_each_time(tmp_path: Path) -> None:
    given = predictions_of()
    for folder in ("one", "two"):
        scores.write_scores(given, tmp_path / folder)
    names = {"scores.json", "confusion_matrix.svg", "reliability.svg"}
    assert {file.name for file in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "scores.json").read_text())["all"]["overall"]["n"] == 200


def test_pictures_say_the_figures(tmp_path: Path) -> None:
    given = predictions_of()
    assert given.probabilities is not None
    scores.write_scores(given, tmp_path)
    error = scores.scores_of(given, given.probabilities)["all"]["overall"]["ece"]
    assert f"ECE {error:.4f}" in words_of(tmp_path / "reliability.svg")
    counts = scores.confusion_matrix(given)
    shown = words_of(tmp_path / "confusion_matrix.svg").split()
    assert all(str(count) in shown for count in counts[counts > 0])


def test_predictions_without_probabilities_are_refused(tmp_path: Path) -> None:
    given = predictions_of()
    bare = Predictions(
        ids=given.ids,
        labels=given.labels,
        predictions=given.predictions,
        data_digest=given.data_digest,
        checkpoint_digest=given.checkpoint_digest,
    )
    with pytest.raises(GateInputError, match="no probabilities"):
        scores.write_scores(bare, tmp_path)
    assert not list(tmp_path.iterdir())


def words_of(picture: Path) -> str:
    return " ".join(text for text in ET.parse(picture).getroot().itertext() if text.strip())  # noqa: S314 - our own file

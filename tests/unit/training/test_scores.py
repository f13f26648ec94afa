"""Scores of a model's predictions, checked against scikit-learn and by hand."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

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


def test_overall_scores_match_scikit_learn() -> None:
    given = predictions_of()
    overall = scores.scores_of(given)["all"]["overall"]
    assert overall["n"] == 200
    assert overall["accuracy"] == accuracy_score(given.labels, given.predictions)
    assert overall["nll"] == pytest.approx(log_loss(given.labels, given.probabilities))


@pytest.mark.parametrize("column", ["class", "size"])
def test_each_group_is_scored_on_its_own_examples(column: str) -> None:
    given = predictions_of()
    values = given.subgroups["size"] if column == "size" else given.labels.astype(np.str_)
    by_value = scores.scores_of(given)[column]
    assert set(by_value) == set(values)
    assert sum(group["n"] for group in by_value.values()) == 200
    for value, group in by_value.items():
        chosen = values == value
        expected = accuracy_score(given.labels[chosen], given.predictions[chosen])
        assert group["accuracy"] == expected


def test_calibration_error_of_an_always_certain_model_is_its_error_rate() -> None:
    probabilities = np.eye(4)[[0, 1, 2, 3, 0, 0, 0, 0]]
    labels = np.array([0, 1, 2, 3, 0, 0, 1, 1])
    given = Predictions(
        ids=np.array(list("abcdefgh")),
        labels=labels,
        predictions=probabilities.argmax(axis=1),
        data_digest="a" * 64,
        checkpoint_digest="b" * 64,
        probabilities=probabilities,
    )
    assert scores.scores_of(given)["all"]["overall"]["ece"] == pytest.approx(2 / 8)


def test_confusion_matrix_matches_scikit_learn() -> None:
    given = predictions_of()
    expected = confusion_matrix(given.labels, given.predictions, labels=range(4))
    assert np.array_equal(scores.confusion_matrix(given), expected)


def test_classes_without_examples_stay_in_the_matrix() -> None:
    given = predictions_of(n=3, classes=6)
    assert scores.confusion_matrix(given).shape == (6, 6)


def test_score_files_and_plots_are_reproducible(tmp_path: Path) -> None:
    given = predictions_of()
    for folder in ("one", "two"):
        scores.write_scores(given, tmp_path / folder)
    names = {"scores.json", "confusion_matrix.svg", "reliability.svg"}
    assert {file.name for file in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "scores.json").read_text())["all"]["overall"]["n"] == 200


def test_plots_show_the_scores(tmp_path: Path) -> None:
    given = predictions_of()
    scores.write_scores(given, tmp_path)
    error = scores.scores_of(given)["all"]["overall"]["ece"]
    assert f"ECE {error:.4f}" in text_in(tmp_path / "reliability.svg")
    counts = scores.confusion_matrix(given)
    shown = text_in(tmp_path / "confusion_matrix.svg").split()
    assert all(str(count) in shown for count in counts[counts > 0])


def test_a_classifier_without_probabilities_has_an_accuracy_and_no_plots(
    tmp_path: Path,
) -> None:
    bare = dataclasses.replace(predictions_of(), probabilities=None)
    scores.write_scores(bare, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]
    overall = json.loads((tmp_path / "scores.json").read_text())["all"]["overall"]
    assert overall == {"n": 200, "accuracy": accuracy_score(bare.labels, bare.predictions)}


def test_a_regression_has_errors_overall_and_by_subgroup(tmp_path: Path) -> None:
    given = Predictions(
        ids=np.array(["a", "b", "c"]),
        labels=np.array([0.0, 2.0, 5.0]),
        predictions=np.array([1.0, 2.0, 2.0]),
        subgroups={"health": np.array(["good", "good", "poor"])},
        data_digest="d" * 64,
        checkpoint_digest="c" * 64,
    )
    scores.write_scores(given, tmp_path)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written.keys() == {"all", "health"}
    assert written["health"] == {
        "good": {"n": 2, "bias": 0.5, "absolute_error": 0.5, "squared_error": 0.5},
        "poor": {"n": 1, "bias": -3.0, "absolute_error": 3.0, "squared_error": 9.0},
    }
    assert written["all"]["overall"]["squared_error"] == 10 / 3


def test_other_models_have_the_mean_of_each_score() -> None:
    given = Predictions(
        ids=np.array(["a", "b"]),
        scores={"bits": np.array([1.0, 2.0])},
        data_digest="d" * 64,
        checkpoint_digest="c" * 64,
    )
    assert scores.scores_of(given) == {"all": {"overall": {"n": 2, "bits": 1.5}}}


def text_in(picture: Path) -> str:
    return " ".join(text for text in ET.parse(picture).getroot().itertext() if text.strip())  # noqa: S314 - our own file

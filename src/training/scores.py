"""A model's scores, overall and by subgroup, and plots if a classifier gives probabilities."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gates.evaluation.metrics import (
    CALIBRATION_BINS,
    calibration,
    expected_calibration_error,
    negative_log_likelihood,
)
from gates.evaluation.predictions import Predictions
from gates.files import write_text

FloatArray = npt.NDArray[np.float64]


def write_scores(predictions: Predictions, folder: Path) -> None:
    """Write `scores.json` into `folder`, which is created if it is missing.

    If there are probabilities, also draw `confusion_matrix.svg` and `reliability.svg`.

    Raises:
        GateInputError: a file cannot be written.
    """
    scores, matrix, diagram = files_in(folder)
    write_text(scores, json.dumps(scores_of(predictions), indent=2) + "\n")
    if predictions.probabilities is None:
        return
    draw_confusion_matrix(confusion_matrix(predictions), matrix)
    draw_reliability(predictions.labels, predictions.probabilities, diagram)


def files_in(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files that `write_scores` may write into `folder`."""
    return folder / "scores.json", folder / "confusion_matrix.svg", folder / "reliability.svg"


def scores_of(predictions: Predictions) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores overall, by class if there are classes, and by subgroup.

    Every model has the mean of each of its own scores. A classifier also has accuracy and, with
    probabilities, NLL (nats) and ECE; a regression mean error (`bias`), absolute and squared error.

    Returns:
        Scores by column (`all`, `class`, and each subgroup column), value of that column, and name
        of the score.
    """
    columns = {"all": np.full(len(predictions.ids), "overall")}
    if _has_classes(predictions):
        columns["class"] = predictions.labels.astype(np.str_)
    columns |= predictions.subgroups
    return {
        name: {
            str(value): {"n": int(np.sum(values == value)), **_means(predictions, values == value)}
            for value in np.unique(values)
        }
        for name, values in columns.items()
    }


def _has_classes(predictions: Predictions) -> bool:
    return predictions.labels is not None and predictions.labels.dtype.kind == "i"


def _means(predictions: Predictions, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of the `chosen` examples, by name."""
    found = {name: float(values[chosen].mean()) for name, values in predictions.scores.items()}
    if predictions.labels is None:
        return found
    labels, predicted = predictions.labels[chosen], predictions.predictions[chosen]
    if not _has_classes(predictions):
        errors = predicted - labels
        found["bias"] = float(errors.mean())
        found["absolute_error"] = float(np.abs(errors).mean())
        found["squared_error"] = float(np.square(errors).mean())
        return found
    found["accuracy"] = float(np.mean(predicted == labels))
    if predictions.probabilities is not None:
        probabilities = predictions.probabilities[chosen]
        found["nll"] = negative_log_likelihood(labels, probabilities)
        found["ece"] = expected_calibration_error(labels, probabilities)
    return found


def confusion_matrix(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Return counts, (n_classes, n_classes): a row per true class, a column per prediction."""
    classes = int(max(predictions.labels.max(), predictions.predictions.max())) + 1
    if predictions.probabilities is not None:
        classes = max(classes, predictions.probabilities.shape[1])
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (predictions.labels, predictions.predictions), 1)
    return matrix


def draw_confusion_matrix(matrix: npt.NDArray[np.int64], file: Path) -> None:
    """Draw a confusion matrix with a row per true class and a column per predicted class."""
    from gates.evaluation.plots import figure  # noqa: PLC0415 - training does not need it

    classes = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(3.0, 0.4 * classes + 1)
    with figure(side, side, file) as drawn:
        axis = drawn.subplots()
        axis.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for truth, predicted in zip(*np.nonzero(matrix), strict=True):
            color = "white" if shares[truth, predicted] > 1 / 2 else "black"
            count = str(matrix[truth, predicted])
            axis.text(predicted, truth, count, ha="center", va="center", color=color)
        axis.set(xlabel="predicted class", ylabel="true class", title="Confusion matrix (counts)")
        axis.set_xticks(range(classes))
        axis.set_yticks(range(classes))


def draw_reliability(labels: npt.NDArray[np.int64], probabilities: FloatArray, file: Path) -> None:
    """Draw accuracy against confidence, and the number of examples at each confidence.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, ICML, figure 1.
    """
    from gates.evaluation.plots import figure  # noqa: PLC0415 - as above

    counts, confidences, correct = calibration(labels, probabilities)
    used = counts > 0
    confidence, accuracy = confidences[used] / counts[used], correct[used] / counts[used]
    error = expected_calibration_error(labels, probabilities)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    with figure(4.5, 5, file) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfectly calibrated")
        upper.plot(confidence, accuracy, "o-", color="black", label="the model")
        upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"Reliability (ECE {error:.4f})")
        upper.legend(loc="upper left")
        lower.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="0.7", ec="black")
        lower.set(xlabel="confidence: the predicted class's probability", ylabel="examples")

"""What a model's predictions come to: figures for each class and subgroup, and two pictures."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gates.errors import GateInputError
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
    """Write `scores.json`, `confusion_matrix.svg` and `reliability.svg` into `folder`.

    Args:
        predictions: with probabilities.
        folder: made if it is missing.

    Raises:
        GateInputError: the predictions have no probabilities, or a file cannot be written.
    """
    if predictions.probabilities is None:
        msg = "these predictions have no probabilities, which the scores need"
        raise GateInputError(msg)
    scores = json.dumps(scores_of(predictions, predictions.probabilities), indent=2)
    figures, matrix, diagram = files_in(folder)
    write_text(figures, scores + "\n")
    draw_confusion_matrix(confusion_matrix(predictions), matrix)
    draw_reliability(predictions.labels, predictions.probabilities, diagram)


def files_in(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files that `write_scores` writes into `folder`."""
    return folder / "scores.json", folder / "confusion_matrix.svg", folder / "reliability.svg"


def scores_of(
    predictions: Predictions, probabilities: FloatArray
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the count, accuracy, NLL (nats) and ECE overall, by class and by subgroup.

    Args:
        predictions: what is scored.
        probabilities: (n_examples, n_classes) theirs.

    Returns:
        By the name of the column (`all`, `class`, and each subgroup column), by its value, by the
        name of the figure.
    """
    everything = np.full(len(predictions.labels), "overall")
    columns = {"all": everything, "class": predictions.labels.astype(np.str_)}
    columns |= predictions.subgroups
    return {
        name: {
            str(value): _scores(predictions, probabilities, values == value)
            for value in np.unique(values)
        }
        for name, values in columns.items()
    }


def _scores(
    predictions: Predictions, probabilities: FloatArray, chosen: npt.NDArray[np.bool_]
) -> dict[str, float]:
    labels, scores = predictions.labels[chosen], probabilities[chosen]
    return {
        "n": int(chosen.sum()),
        "accuracy": float(np.mean(predictions.predictions[chosen] == labels)),
        "nll": negative_log_likelihood(labels, scores),
        "ece": expected_calibration_error(labels, scores),
    }


def confusion_matrix(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Return how often each class was taken for each, (n_classes, n_classes): truth by row."""
    classes = int(max(predictions.labels.max(), predictions.predictions.max())) + 1
    if predictions.probabilities is not None:
        classes = max(classes, predictions.probabilities.shape[1])
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (predictions.labels, predictions.predictions), 1)
    return matrix


def draw_confusion_matrix(matrix: npt.NDArray[np.int64], file: Path) -> None:
    """Draw how often each class, by row, was predicted as each, by column."""
    from gates.evaluation.plots import figure  # noqa: PLC0415 - training draws nothing

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
    """Draw accuracy against confidence, with how many examples there are of each.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, ICML, figure 1.
    """
    from gates.evaluation.plots import figure  # noqa: PLC0415 - as above

    counts, confidences, right = calibration(labels, probabilities)
    there = counts > 0
    confidence, accuracy = confidences[there] / counts[there], right[there] / counts[there]
    error = expected_calibration_error(labels, probabilities)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    with figure(4.5, 5, file) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="as sure as right")
        upper.plot(confidence, accuracy, "o-", color="black", label="the model")
        upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"Reliability (ECE {error:.4f})")
        upper.legend(loc="upper left")
        lower.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="0.7", ec="black")
        lower.set(xlabel="confidence: the predicted class's probability", ylabel="examples")

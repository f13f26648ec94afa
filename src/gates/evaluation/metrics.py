"""Metrics of labels and class probabilities."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# A probability of 0 for the true class would make its loss, and so every mean loss, infinite.
SMALLEST_PROBABILITY = 1e-12

CALIBRATION_BINS = 15


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return the negative log-likelihood of each true class, in nats.

    Args:
        labels: (n_examples,) true classes, from 0.
        probabilities: (n_examples, n_classes).

    Returns:
        (n_examples,) at most 27.6, because smaller probabilities count as 1e-12.
    """
    of_truth = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(of_truth, SMALLEST_PROBABILITY))


def negative_log_likelihood(labels: IntArray, probabilities: FloatArray) -> float:
    """Return the mean of `log_losses`, in nats."""
    return float(log_losses(labels, probabilities).mean())


def expected_calibration_error(labels: IntArray, probabilities: FloatArray) -> float:
    """Return the mean gap between confidence and accuracy over all examples.

    Examples are sorted into 15 bins of equal width by the probability of their predicted class.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, ICML, section 2.
    """
    counts, confidence, right = calibration(labels, probabilities)
    return float(np.abs(right - confidence).sum() / counts.sum())


def calibration(
    labels: IntArray, probabilities: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the data of a reliability diagram with 15 bins of confidence.

    Returns:
        Three arrays of shape (n_bins,): the number of examples, the sum of their confidences, and
        the number of correct predictions.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    # A bin includes its upper edge, so that a confidence of 1 falls into the last bin.
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    bins = bins.clip(0, CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS).astype(np.float64)
    confidences = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, weights=is_right, minlength=CALIBRATION_BINS)
    return counts, confidences, right

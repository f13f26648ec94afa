"""The evaluation gate: is the candidate worse than the baseline on the same held-out examples?"""

import numpy as np

from gates.errors import GateInputError
from gates.predictions import Predictions, check_examples
from gates.verdict import Outcome, Verdict


def compare(candidate: Predictions, baseline: Predictions, *, margin: float) -> Verdict:
    """Judge whether `candidate` loses more accuracy against `baseline` than `margin`.

    Both are scored on the same examples. The rule compares the two point estimates.

    Args:
        candidate: the predictions of the model that may be promoted.
        baseline: the predictions of the model in production.
        margin: accuracy that may be lost, a fraction in [0, 1); 0.02 is two percentage points.

    Raises:
        GateInputError: they were not scored on the same examples of the same data, or
            `margin` is outside [0, 1).
    """
    check_margin(margin)
    check_examples(candidate.ids, of="candidate")
    check_examples(baseline.ids, of="baseline")
    _check_finite(candidate, of="candidate")
    _check_finite(baseline, of="baseline")
    _check_comparable(candidate, baseline)
    difference = candidate.accuracy - baseline.accuracy
    # Written for passing, so that NaN does not pass. An accuracy is a ratio of counts, so a
    # loss of exactly the margin must not fail by the last bit of a float.
    passed = difference >= -margin - 1e-12
    return Verdict(
        gate="evaluation",
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        reason=(
            f"accuracy {baseline.accuracy:.4f} -> {candidate.accuracy:.4f} ({difference:+.4f}) "
            f"on {len(candidate.ids):,} held-out examples; at most {margin:.4f} may be lost"
        ),
        metrics={
            "accuracy": candidate.accuracy,
            "baseline_accuracy": baseline.accuracy,
            "difference": difference,
            "margin": margin,
        },
        evidence={
            "checkpoint": candidate.checkpoint_digest,
            "baseline": baseline.checkpoint_digest,
            "data": candidate.data_digest,
        },
    )


def accept_without_baseline(candidate: Predictions, *, why: str) -> Verdict:
    """Return the verdict on a first release, which has nothing to be compared with.

    Args:
        candidate: the predictions of the first model.
        why: who decided to go without a baseline, and for what reason.

    Raises:
        GateInputError: no reason is given.
    """
    if not why.strip():
        msg = '--no-baseline: say why there is nothing to compare with, as in "first release"'
        raise GateInputError(msg)
    check_examples(candidate.ids, of="candidate")
    _check_finite(candidate, of="candidate")
    return Verdict(
        gate="evaluation",
        outcome=Outcome.PASS,
        reason=(
            f"accuracy {candidate.accuracy:.4f} on {len(candidate.ids):,} held-out examples; "
            "compared with nothing"
        ),
        metrics={"accuracy": candidate.accuracy},
        evidence={"checkpoint": candidate.checkpoint_digest, "data": candidate.data_digest},
        notes={"no baseline": why},
    )


def check_margin(margin: float) -> None:
    """Raise a `GateInputError` unless `margin` is a fraction in [0, 1)."""
    if not 0 <= margin < 1:
        msg = (
            f"margin is {margin:g}; expected a fraction in [0, 1): "
            "for two percentage points write 0.02"
        )
        raise GateInputError(msg)


def _check_finite(predictions: Predictions, *, of: str) -> None:
    """Refuse a model that predicts NaN: its classes are an accident of argmax."""
    if predictions.probabilities is None:
        return
    broken = np.flatnonzero(~np.isfinite(predictions.probabilities).all(axis=1))
    if broken.size:
        msg = f"{of}: {broken.size:,} examples have a probability that is no number, the first is "
        msg += f"{predictions.ids[broken[0]]}"
        raise GateInputError(msg)


def _check_comparable(candidate: Predictions, baseline: Predictions) -> None:
    if candidate.data_digest != baseline.data_digest:
        msg = (
            f"baseline was scored on other data ({baseline.data_digest[:12]}) than the candidate "
            f"({candidate.data_digest[:12]}); score both on the same data"
        )
        raise GateInputError(msg)
    strangers = np.setxor1d(candidate.ids, baseline.ids)
    if strangers.size:
        msg = (
            f"candidate and baseline share not every example: {strangers.size:,} differ, "
            f"the first is {strangers[0]}"
        )
        raise GateInputError(msg)
    candidate_labels = candidate.labels[np.argsort(candidate.ids)]
    baseline_labels = baseline.labels[np.argsort(baseline.ids)]
    differing = np.flatnonzero(candidate_labels != baseline_labels)
    if differing.size:
        msg = (
            f"candidate and baseline disagree on the label of {differing.size:,} examples, "
            f"the first is {np.sort(candidate.ids)[differing[0]]}"
        )
        raise GateInputError(msg)

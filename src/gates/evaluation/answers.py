"""Checks that a model still gives the answers that its predictions file records."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gates.evaluation.predictions import Predictions, PredictionsFile, to_table


def difference(recorded: PredictionsFile, again: Predictions, *, tolerance: float) -> str | None:
    """Return how `recorded` differs from the model's answers now; None if it does not.

    Every example is compared, including its label and its groups: a verdict is only as good as
    the labels and the groups in the predictions behind it.

    Args:
        recorded: the predictions on file.
        again: what the model predicts now, for all of the held-out examples.
        tolerance: the allowed difference of probabilities, scores and predicted numbers, because
            processors round differently. If two classes are that close, either is accepted.

    Raises:
        GateInputError: `recorded` is damaged.
    """
    for what, digest in recorded.digests.items():
        now = str(getattr(again, f"{what}_digest"))
        if digest != now:
            return f"the predictions name the {what} {digest[:12]}; expected {now[:12]}"
    kept, expected = pa.Table.from_batches(recorded.batches()), to_table(again)
    if set(kept.column_names) != set(expected.column_names):
        found, wanted = (", ".join(each.column_names) for each in (kept, expected))
        return f"the predictions have the columns {found}; expected {wanted}"
    if kept["id"].to_pylist() != expected["id"].to_pylist():
        return f"the predictions do not list the {len(expected):,} held-out examples in order"
    differs = {
        name: _differs(kept[name], expected[name], tolerance)
        for name in kept.column_names
        if name != "probabilities"
    }
    if again.probabilities is not None:
        differs.update(_compare_probabilities(kept, again.probabilities, tolerance))
    for name, is_other in differs.items():
        if is_other.any():
            return f"{name} of {again.ids[np.argmax(is_other)]} differs from what was recorded"
    return None


def _differs(kept: pa.ChunkedArray, now: pa.ChunkedArray, tolerance: float) -> Any:
    """Return for each example whether a column other than the probabilities differs."""
    if not (pa.types.is_floating(kept.type) and pa.types.is_floating(now.type)):
        return kept.to_numpy() != now.to_numpy()
    return ~np.isclose(kept.to_numpy(), now.to_numpy(), rtol=tolerance, atol=tolerance)


def _compare_probabilities(
    kept: pa.Table, now: npt.NDArray[np.float64], tolerance: float
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return for each example whether its probabilities, or its prediction, differ."""
    flat = kept["probabilities"].combine_chunks().flatten().to_numpy()
    if flat.size != now.size:
        everywhere = np.full(len(now), fill_value=True)
        return {"probabilities": everywhere, "prediction": everywhere}
    close = np.isclose(flat.reshape(now.shape), now, rtol=0, atol=tolerance).all(axis=1)
    predicted = kept["prediction"].to_numpy()
    is_class = (predicted >= 0) & (predicted < now.shape[1])
    chosen = now[np.arange(len(now)), np.where(is_class, predicted, 0)]
    likeliest = is_class & (now.max(axis=1) - chosen <= tolerance)
    return {"probabilities": ~close, "prediction": ~likeliest}

"""Predictions of a model on held-out examples: the file by which a project is judged."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gates.errors import GateInputError
from gates.files import atomic_write

_REQUIRED = ("id", "label", "prediction")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one model predicted for each held-out example.

    Args:
        ids: (n_examples,) unique names of the examples.
        labels: (n_examples,) the true classes.
        predictions: (n_examples,) the predicted classes.
        data_digest: SHA-256 of the data that the examples come from.
        checkpoint_digest: SHA-256 of the checkpoint that predicted.
        probabilities: (n_examples, n_classes) or None.
        subgroups: (n_examples,) values of each subgroup column, by its name.
    """

    ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    data_digest: str
    checkpoint_digest: str
    probabilities: npt.NDArray[np.float64] | None = None
    subgroups: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The share of examples that were predicted right."""
        return float(np.mean(self.predictions == self.labels))


def write_predictions(predictions: Predictions, file: Path) -> None:
    """Write `predictions` to `file` as Parquet, digests in its metadata."""
    columns: dict[str, pa.Array] = {
        "id": pa.array(predictions.ids.tolist(), pa.string()),
        "label": pa.array(predictions.labels),
        "prediction": pa.array(predictions.predictions),
    }
    if predictions.probabilities is not None:
        columns["probabilities"] = pa.array(
            predictions.probabilities.tolist(), pa.list_(pa.float64())
        )
    for name, values in predictions.subgroups.items():
        columns[name] = pa.array(values.tolist(), pa.string())
    digests = {
        "data_digest": predictions.data_digest,
        "checkpoint_digest": predictions.checkpoint_digest,
    }
    with atomic_write(file) as stream:
        pq.write_table(pa.table(columns).replace_schema_metadata(digests), stream)


def read_predictions(file: Path) -> Predictions:
    """Return the predictions in `file`.

    Raises:
        GateInputError: the file is missing, damaged, lacks a column or a digest, is
            empty, or names an example twice.
    """
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        msg = f"{file}: not readable as predictions ({_first_line(error)})"
        raise GateInputError(msg) from error
    metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    _check_columns(table, metadata, file)
    ids = np.array(table["id"].to_pylist(), dtype=np.str_)
    check_examples(ids, of=str(file))
    known = {*_REQUIRED, "probabilities"}
    return Predictions(
        ids=ids,
        labels=table["label"].to_numpy(),
        predictions=table["prediction"].to_numpy(),
        data_digest=metadata["data_digest"],
        checkpoint_digest=metadata["checkpoint_digest"],
        probabilities=_probabilities(table, file),
        subgroups={
            name: np.array(table[name].to_pylist(), dtype=np.str_)
            for name in table.column_names
            if name not in known
        },
    )


def check_examples(ids: npt.NDArray[np.str_], *, of: str) -> None:
    """Raise a `GateInputError` if there is no example, or one more than once."""
    if not len(ids):
        msg = f"{of}: holds no example"
        raise GateInputError(msg)
    names, counts = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        msg = f"{of}: example {names[counts > 1][0]} appears more than once"
        raise GateInputError(msg)


def _check_columns(table: pa.Table, metadata: dict[str, str], file: Path) -> None:
    """Refuse what could be compared only by accident.

    A baseline whose predictions can equal no label, such as missing ones, would let any
    candidate pass.
    """
    missing = [name for name in _REQUIRED if name not in table.column_names]
    missing += [name for name in ("data_digest", "checkpoint_digest") if name not in metadata]
    if missing:
        msg = f"{file}: lacks {', '.join(missing)}; write it with: python -m my_project.eval"
        raise GateInputError(msg)
    if not len(table):
        return
    for name in _REQUIRED:
        column = table[name]
        is_right, kind = (
            (pa.types.is_string, "text") if name == "id" else (pa.types.is_integer, "whole numbers")
        )
        if column.null_count or not is_right(column.type):
            msg = (
                f"{file}: {name} must be {kind}, none missing; found {column.type} "
                f"with {column.null_count:,} missing"
            )
            raise GateInputError(msg)


def _probabilities(table: pa.Table, file: Path) -> npt.NDArray[np.float64] | None:
    if "probabilities" not in table.column_names:
        return None
    try:
        return np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{file}: probabilities are not as many numbers for each example"
        raise GateInputError(msg) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

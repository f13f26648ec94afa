"""Predictions of a model on held-out examples: the file by which a project is judged.

It is a Parquet file with one row per example. Every row has an `id`. A classifier has a `label` and
a `prediction` (integers), and optionally `probabilities`; a regression has a `label` and a
`prediction` (floats); any other model has a column `score.NAME` for each quantity whose mean is a
metric. `cluster` names what makes examples depend on each other, such as a customer or a document.
Each further column of text, integers or booleans defines subgroups; other columns are ignored. The
metadata holds the digests of the data, the checkpoint and the configuration, and of the content
itself, so that damage is noticed.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gates.data.columns import is_list, is_text
from gates.errors import GateInputError
from gates.files import atomic_write

_PROBABILITIES, _CLUSTER, _SCORE = "probabilities", "cluster", "score."
_ANSWERS = ("label", "prediction")
_RESERVED = ("id", *_ANSWERS, _PROBABILITIES, _CLUSTER)  # these and scores are not subgroups
_LIST = pa.list_(pa.float64())
_ROWS = 131_072  # in one batch, about 20 MB with ten classes
# Probabilities come from a softmax in single precision or better.
_SUM_TOLERANCE = 1e-3
# On a damaged file, pyarrow raises more than its own errors: for a name that is not UTF-8, say, or
# a length of exabytes.
_UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError)


# (n_examples,) int64 for a classifier, float64 for a regression; None if there are only scores.
# A type checker could not tell which, so every use would need a cast.
Answers = Any


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one model predicted for each held-out example.

    Args:
        ids: (n_examples,) unique names of the examples.
        labels: (n_examples,) the true classes, or the true values of a regression; None if there
            are only scores.
        predictions: (n_examples,) the predicted classes or values.
        data_digest: SHA-256 of the data that the examples come from.
        checkpoint_digest: SHA-256 of the checkpoint that made the predictions.
        config_digest: SHA-256 of the configuration of the run, if there is one.
        probabilities: (n_examples, n_classes) or None.
        scores: (n_examples,) per-example quantities whose means are metrics, by name.
        clusters: (n_examples,) what each example shares with those that it depends on, or None.
        subgroups: (n_examples,) the values of each subgroup column, by name.
    """

    ids: npt.NDArray[np.str_]
    labels: Answers = None
    predictions: Answers = None
    data_digest: str
    checkpoint_digest: str
    config_digest: str | None = None
    probabilities: npt.NDArray[np.float64] | None = None
    scores: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    clusters: npt.NDArray[np.str_] | None = None
    subgroups: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)


def write_predictions(predictions: Predictions, file: Path) -> None:
    """Write `predictions` to `file` as Parquet, atomically.

    Raises:
        GateInputError: the file cannot be written.
    """
    table = to_table(predictions)
    content = _Content()
    for batch in table.to_batches(max_chunksize=_ROWS):
        content.add(batch)
    digests = {
        "data_digest": predictions.data_digest,
        "checkpoint_digest": predictions.checkpoint_digest,
    }
    if predictions.config_digest is not None:
        digests["config_digest"] = predictions.config_digest
    digests["content_digest"] = content.digest(digests)
    with atomic_write(file) as stream:
        pq.write_table(table.replace_schema_metadata(digests), stream, write_page_checksum=True)


def to_table(predictions: Predictions) -> pa.Table:
    """Return `predictions` as the table that is written, with one row per example."""
    columns: dict[str, pa.Array] = {"id": pa.array(predictions.ids.tolist(), pa.string())}
    for name, answers in zip(_ANSWERS, (predictions.labels, predictions.predictions), strict=True):
        if answers is not None:
            is_class = np.issubdtype(answers.dtype, np.integer)
            columns[name] = pa.array(answers, pa.int64() if is_class else pa.float64())
    if predictions.probabilities is not None:
        n, classes = predictions.probabilities.shape
        starts = pa.array(np.arange(n + 1) * classes, pa.int32())
        flat = np.ascontiguousarray(predictions.probabilities, dtype=np.float64).ravel()
        columns[_PROBABILITIES] = pa.ListArray.from_arrays(starts, pa.array(flat))
    for name, scores in predictions.scores.items():
        columns[_SCORE + name] = pa.array(scores, pa.float64())
    if predictions.clusters is not None:
        columns[_CLUSTER] = pa.array(predictions.clusters.tolist(), pa.string())
    for name, values in predictions.subgroups.items():
        columns[name] = pa.array(values.tolist(), pa.string())
    return pa.table(columns)


Kind = Literal["classes", "numbers"]


@dataclass(frozen=True, kw_only=True)
class PredictionsFile:
    """A file of predictions, read in batches so that its size does not matter.

    Args:
        path: where it is.
        name: what errors call it.
        n: how many examples it has.
        kind: what its labels are; None if it has only scores.
        has_probabilities: whether it has the column `probabilities`.
        has_clusters: whether it has the column `cluster`.
        scores: the names of its columns `score.NAME`, without `score.`.
        subgroups: the names of its subgroup columns.
        digests: SHA-256 of its `data`, `checkpoint` and, if there is one, `config`.
        is_sealed: whether it holds the digest of its content, so that a change is noticed.
    """

    path: Path
    name: str
    n: int
    kind: Kind | None
    has_probabilities: bool
    has_clusters: bool
    scores: tuple[str, ...]
    subgroups: tuple[str, ...]
    digests: Mapping[str, str]
    is_sealed: bool

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all columns, some 100,000 rows at a time; text as strings.

        Raises:
            GateInputError: a value is missing or not allowed, or the content is not what was
                written; raised no later than after the last batch.
        """
        content = _Content()
        rows = classes = 0
        with _readable(self.name), _opened(self.path) as parquet:
            read = ["id", *(_ANSWERS if self.kind else ())]
            read += [_PROBABILITIES] if self.has_probabilities else []
            read += [_SCORE + name for name in self.scores]
            read += [_CLUSTER] if self.has_clusters else []
            read += self.subgroups
            for raw in parquet.iter_batches(batch_size=_ROWS, columns=read):
                batch = _normalised(raw, self.name)
                _check_finite(batch, self.name)
                if self.has_probabilities:
                    classes = _check_probabilities(batch, self.name, classes)
                content.add(batch)
                rows += len(batch)
                yield batch
            written = _metadata(parquet).get("content_digest")
        digests = {f"{key}_digest": digest for key, digest in self.digests.items()}
        if rows != self.n or (written is not None and written != content.digest(digests)):
            msg = f"{self.name}: damaged or changed: its content is not what was written; "
            msg += "write it again with: python -m PROJECT.eval"
            raise GateInputError(msg)


def open_predictions(file: Path, *, name: str | None = None) -> PredictionsFile:
    """Return the predictions file at `file`, with its columns checked but its content not yet read.

    Args:
        file: where it is.
        name: what errors call it instead of its path.

    Raises:
        GateInputError: the file is missing, damaged or empty, or lacks a column or a digest.
    """
    name = name or str(file)
    with _readable(name), _opened(file) as parquet:
        schema: pa.Schema = parquet.schema_arrow
        metadata = _metadata(parquet)
        n: int = parquet.metadata.num_rows
    _check_columns(schema, metadata, name)
    if not n > 0:
        msg = f"{name}: holds no examples"
        raise GateInputError(msg)
    kinds = ("data", "checkpoint", "config")
    digests = {kind: metadata[f"{kind}_digest"] for kind in kinds if f"{kind}_digest" in metadata}
    for kind, digest in digests.items():
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):  # noqa: PLR2004 - SHA-256
            msg = f"{name}: its {kind}_digest is {digest!r}; expected 64 hexadecimal digits"
            raise GateInputError(msg)
    return PredictionsFile(
        path=file,
        name=name,
        n=n,
        kind=_kind(schema, name),
        has_probabilities=_PROBABILITIES in schema.names,
        has_clusters=_CLUSTER in schema.names,
        scores=tuple(c.removeprefix(_SCORE) for c in schema.names if c.startswith(_SCORE)),
        subgroups=tuple(column.name for column in schema if _is_subgroup(column)),
        digests=digests,
        is_sealed="content_digest" in metadata,
    )


def _check_columns(schema: pa.Schema, metadata: Mapping[str, str], name: str) -> None:
    """Refuse columns for which a comparison would mean nothing.

    Any candidate would pass against a baseline whose predictions cannot equal a label, such as
    missing ones.
    """
    has_scores = any(column.startswith(_SCORE) for column in schema.names)
    needed = ("id", *(() if has_scores and not {*_ANSWERS} & {*schema.names} else _ANSWERS))
    missing = [column for column in needed if column not in schema.names]
    missing += [key for key in ("data_digest", "checkpoint_digest") if key not in metadata]
    if missing:
        msg = f"{name}: lacks {', '.join(missing)}; write it with: python -m PROJECT.eval"
        raise GateInputError(msg)
    repeated = [column for column in schema.names if schema.names.count(column) > 1]
    if repeated:
        msg = f"{name}: has more than one column {repeated[0]}"
        raise GateInputError(msg)
    for column in schema:
        key = _SCORE if column.name.startswith(_SCORE) else column.name
        is_right, expected = _KINDS.get(key, (None, ""))
        if is_right is not None and not is_right(column.type):
            msg = f"{name}: {column.name} must be {expected}; found {column.type}"
            raise GateInputError(msg)


def _kind(schema: pa.Schema, name: str) -> Kind | None:
    """Return the kind of labels in a checked schema; None if it has none."""
    if "label" not in schema.names:
        return None
    are_classes = {pa.types.is_integer(schema.field(column).type) for column in _ANSWERS}
    if len(are_classes) > 1:
        label, prediction = (schema.field(column).type for column in _ANSWERS)
        msg = f"{name}: label is {label} and prediction is {prediction}; expected integers in both "
        msg += "(classes) or floats in both (a regression)"
        raise GateInputError(msg)
    return "classes" if True in are_classes else "numbers"


def _is_subgroup(column: pa.Field) -> bool:
    is_other = column.name in _RESERVED or column.name.startswith(_SCORE)
    return not is_other and _is_name(column.type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_name(kind: pa.DataType) -> bool:
    """Whether values of this type can name a subgroup or a cluster."""
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    return bool(is_list(kind) and pa.types.is_floating(kind.value_type))


_KINDS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "id": (is_text, "text"),
    "label": (_is_number, "numbers"),
    "prediction": (_is_number, "numbers"),
    _SCORE: (pa.types.is_floating, "floats"),
    _CLUSTER: (_is_name, "text or integers"),
    _PROBABILITIES: (_is_list_of_numbers, "lists of numbers"),
}


def _written_as(column: str, found: pa.DataType) -> pa.DataType:
    """Return the type in which a column is written; subgroups and clusters are text."""
    if column == _PROBABILITIES:
        return _LIST
    if column in _ANSWERS:
        return pa.int64() if pa.types.is_integer(found) else pa.float64()
    return pa.float64() if column.startswith(_SCORE) else pa.string()


def _normalised(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """Return `batch` in the types that are written here; refuse missing values."""
    columns = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        columns[column] = values.cast(_written_as(column, values.type))
        columns[column].validate(full=True)
    for column, values in columns.items():
        inner = values.flatten() if values.type == _LIST else values
        if values.null_count or inner.null_count:
            missing = columns["id"].filter(pc.is_null(values))
            first = f", the first in {named(missing)}" if len(missing) else ""
            msg = f"{name}: {column} has missing values{first}"
            raise GateInputError(msg)
    return pa.record_batch(columns)


def _check_finite(batch: pa.RecordBatch, name: str) -> None:
    """Refuse labels, predictions and scores that are not finite."""
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        if values.type == pa.float64():
            is_finite = np.isfinite(values.to_numpy())
            _refuse(~is_finite, batch, name, f"{column} that is not a finite number")


def _check_probabilities(batch: pa.RecordBatch, name: str, classes: int) -> int:
    """Refuse invalid probabilities; NaN fails each comparison.

    Returns:
        The number of classes: `classes`, or the number in this batch if that is 0.
    """
    if not len(batch):
        return classes
    lengths = pc.list_value_length(batch[_PROBABILITIES]).to_numpy(zero_copy_only=False)
    classes = classes or int(lengths[0])
    _refuse(lengths != classes, batch, name, f"a number of probabilities other than {classes}")
    table = batch[_PROBABILITIES].flatten().to_numpy(zero_copy_only=False)
    table = table.reshape(len(batch), classes)
    in_range = ((table >= 0) & (table <= 1)).all(axis=1)
    _refuse(~in_range, batch, name, "a probability that is not a number from 0 to 1")
    sums_to_one = np.abs(table.sum(axis=1) - 1) <= _SUM_TOLERANCE
    _refuse(~sums_to_one, batch, name, "probabilities that do not sum to 1")
    labels = batch["label"].to_numpy()
    has_label = (labels >= 0) & (labels < classes)
    _refuse(~has_label, batch, name, f"a label that is not one of its {classes} classes")
    return classes


def _refuse(is_bad: npt.NDArray[np.bool_], batch: pa.RecordBatch, name: str, what: str) -> None:
    if is_bad.any():
        bad = named(batch["id"].filter(pa.array(is_bad)))
        msg = f"{name}: has {what}, in {bad}"
        raise GateInputError(msg)


def named(ids: pa.Array | pa.ChunkedArray) -> str:
    """Return how many examples these are, with the first few ids, for an error."""
    first = [_quoted(text) for text in ids.slice(0, 3).to_pylist()]
    examples = "1 example" if len(ids) == 1 else f"{len(ids):,} examples"
    more = ", …" if len(ids) > len(first) else ""
    return f"{examples}: {', '.join(first)}{more}"


def _quoted(text: str | None) -> str:
    """Return an id as it is, or in quotes if it is empty or has spaces."""
    is_plain = text is not None and text.isprintable() and len(text.split()) == 1
    return text if is_plain and text is not None else repr(text)


class _Content:
    """A digest of columns of values that does not depend on how they are batched."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[Any, Any]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the values of `batch`, in the types that are written here, to the digest."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            # Separate hashes: with one for both, the digest would depend on the batches.
            lengths, values = self._columns.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            if column.type == pa.string():
                lengths.update(pc.binary_length(column).to_numpy())
                values.update(_characters(column))
            elif column.type == _LIST:
                lengths.update(pc.list_value_length(column).to_numpy())
                values.update(column.flatten().to_numpy())
            else:
                values.update(column.to_numpy())

    def digest(self, digests: Mapping[str, str]) -> str:
        """Return the SHA-256 of all columns and of the digests in the metadata."""
        columns = {
            name: [hasher.hexdigest() for hasher in hashers]
            for name, hashers in self._columns.items()
        }
        parts = json.dumps({"columns": columns, **digests}, sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def _characters(column: pa.StringArray) -> memoryview:
    """Return the bytes of all strings of `column`, concatenated."""
    _, offsets, characters = column.buffers()
    if characters is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, dtype=np.int32)
    start, end = bounds[column.offset], bounds[column.offset + len(column)]
    return memoryview(characters)[start:end]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet:
        yield parquet


def _metadata(parquet: pq.ParquetFile) -> dict[str, str]:
    pairs = (parquet.schema_arrow.metadata or {}).items()
    return {key.decode(errors="replace"): text.decode(errors="replace") for key, text in pairs}


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Report in one line what pyarrow finds wrong with a file."""
    try:
        yield
    except _UNREADABLE as error:
        msg = f"{name}: not readable as predictions ({_first_line(error)})"
        raise GateInputError(msg) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

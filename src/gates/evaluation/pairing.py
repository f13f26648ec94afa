"""Two models' predictions of the same examples, joined by id and counted.

Files may be larger than memory: they are then split on disk into partitions by a hash of the id,
which are joined one after the other (a Grace hash join: Kitsuregawa, Tanaka and Moto-oka (1983),
New Generation Computing 1:63-74).
"""

import contextlib
import math
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gates.errors import GateInputError
from gates.evaluation.metrics import log_losses
from gates.evaluation.policy import SCORE
from gates.evaluation.predictions import PredictionsFile, named
from gates.evaluation.statistics import PairedCounts

# Examples that are joined in memory at a time; joining takes about 200 bytes for each.
_IN_MEMORY = 2_000_000

_CLUSTER = "cluster"
_MODELS = ("candidate", "baseline")

# A prefix, because a project's subgroup column may have the same name as one of ours.
_SUBGROUP = "subgroup "

Number = TypeVar("Number", np.int64, np.float64)

_OUTCOMES = ("both_right", "candidate_only", "baseline_only", "neither")
_LOSSES = ("candidate_loss", "baseline_loss", "gain", "gain_squared")


@dataclass(frozen=True, kw_only=True)
class LossSums:
    """Sums of log losses over the examples of a group, in nats.

    Args:
        candidate: the candidate's losses.
        baseline: the baseline's losses.
        gain: baseline minus candidate, positive if the candidate is better.
        gain_squared: the squares of the gains.
    """

    candidate: float
    baseline: float
    gain: float
    gain_squared: float


@dataclass(frozen=True)
class Tally:
    """Counts of paired outcomes, for each combination of subgroup values.

    Args:
        cells: one row per combination, with its subgroup columns as "subgroup NAME", the counts
            of paired outcomes, and the sums of losses if they were asked for.
    """

    cells: pa.Table

    def values(self, column: str) -> list[str]:
        """Return the values of a subgroup column, sorted."""
        return sorted(set(self.cells[_SUBGROUP + column].to_pylist()))

    def members(self, group: Mapping[str, str]) -> npt.NDArray[np.bool_]:
        """Return which cells, (n_cells,), are in a group; an empty group selects all."""
        chosen = np.ones(len(self.cells), dtype=np.bool_)
        for column, value in group.items():
            chosen &= pc.equal(self.cells[_SUBGROUP + column], value).to_numpy()
        return chosen

    def outcomes(self) -> npt.NDArray[np.int64]:
        """Return the counts of paired outcomes, (n_cells, 4), in the order of `PairedCounts`."""
        return np.stack([self.cells[name].to_numpy() for name in _OUTCOMES], axis=1)

    def counts(self, group: Mapping[str, str]) -> PairedCounts:
        """Return the paired outcomes in a group; an empty group selects all."""
        sums = self.outcomes()[self.members(group)].sum(axis=0).tolist()
        return PairedCounts(**dict(zip(_OUTCOMES, sums, strict=True)))

    def losses(self) -> LossSums:
        """Return the sums of losses over all examples."""
        sums = [float(pc.sum(self.cells[name]).as_py()) for name in _LOSSES]
        return LossSums(candidate=sums[0], baseline=sums[1], gain=sums[2], gain_squared=sums[3])


@dataclass(frozen=True, kw_only=True)
class PairedArrays:
    """Both models' probabilities in memory, for metrics that are not sums over examples.

    They are sorted by id, so that random draws do not depend on the order of the files, and
    read-only, because a project's own metric receives them directly.

    Args:
        labels: (n_examples,) true classes.
        candidate: (n_examples, n_classes) probabilities.
        baseline: (n_examples, n_classes) probabilities.
    """

    labels: npt.NDArray[np.int64]
    candidate: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]


def tally(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    *,
    columns: Sequence[str],
    with_losses: bool,
) -> Tally:
    """Return the paired outcomes for each combination of the values of `columns`.

    The subgroups come from the candidate's file. Memory does not grow with the number of examples.

    Args:
        candidate: the model that may be promoted.
        baseline: the model in production; the candidate's file if there is none.
        columns: subgroup columns.
        with_losses: whether to sum log losses; both files then need probabilities.

    Raises:
        GateInputError: an example is missing in one file or repeated, a label or a subgroup
            differs between the two, or a file is damaged.
    """

    def narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
        kept = {"id": batch["id"], "label": batch["label"]}
        # A baseline may lack the subgroups, which come from the candidate.
        there = [name for name in columns if name in batch.schema.names]
        kept |= {_SUBGROUP + name: batch[name] for name in there}
        kept["right"] = pc.equal(batch["label"], batch["prediction"])
        if with_losses:
            kept["loss"] = pa.array(log_losses(*_labels_and_probabilities(batch)))
        return pa.record_batch(kept)

    groups = [_SUBGROUP + name for name in columns]
    with contextlib.closing(_joined_parts(candidate, baseline, narrow)) as joined:
        parts = [_count(*both, groups, with_losses=with_losses) for both in joined]
    return Tally(_sum_up(pa.concat_tables(parts), groups, with_losses=with_losses))


@dataclass(frozen=True)
class Quantities:
    """Per-example quantities of both models, in memory, sorted by id.

    Args:
        table: for each quantity the columns "candidate NAME" and "baseline NAME", the subgroup
            columns as "subgroup NAME", and `cluster` if the examples are in clusters.
    """

    table: pa.Table

    @property
    def clusters(self) -> npt.NDArray[np.int64] | None:
        """(n_examples,) the cluster number of each example; None without clusters."""
        if _CLUSTER not in self.table.column_names:
            return None
        encoded = _array(self.table[_CLUSTER]).dictionary_encode()
        found: npt.NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
        return found

    def values(self, column: str) -> list[str]:
        """Return the values of a subgroup column, sorted."""
        return sorted(set(self.table[_SUBGROUP + column].to_pylist()))

    def members(self, group: Mapping[str, str]) -> npt.NDArray[np.bool_]:
        """Return which examples, (n_examples,), are in a group; an empty group selects all."""
        chosen = np.ones(len(self.table), dtype=np.bool_)
        for column, value in group.items():
            chosen &= pc.equal(self.table[_SUBGROUP + column], value).to_numpy()
        return chosen

    def of(self, quantity: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the quantity of each example, (n_examples,), of the candidate and the baseline."""
        ours, theirs = (self.table[f"{who} {quantity}"] for who in _MODELS)
        return ours.to_numpy(), theirs.to_numpy()


def quantities(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    *,
    columns: Sequence[str],
    wanted: Sequence[str],
) -> Quantities:
    """Return per-example quantities of both models.

    Args:
        candidate: the model that may be promoted.
        baseline: the model in production; the candidate's file if there is none.
        columns: subgroup columns, which come from the candidate's file.
        wanted: `correct`, `nll`, `absolute_error`, `squared_error` or `score.NAME`.

    Raises:
        GateInputError: as for `tally`.
    """

    def narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
        names = [name for name in ("id", "label", _CLUSTER) if name in batch.schema.names]
        kept = {name: batch[name] for name in names}
        kept |= {_SUBGROUP + name: batch[name] for name in columns if name in batch.schema.names}
        return pa.record_batch(kept | {name: quantity(name, batch) for name in wanted})

    parts = []
    with contextlib.closing(_joined_parts(candidate, baseline, narrow)) as joined:
        for ours, theirs in joined:
            groups = [_SUBGROUP + name for name in columns]
            groups += [_CLUSTER] if _CLUSTER in ours.column_names else []
            table = {name: ours[name] for name in ("id", *groups)}
            for who, rows in zip(_MODELS, (ours, theirs), strict=True):
                table |= {f"{who} {name}": rows[name] for name in wanted}
            parts.append(pa.table(table))
    return Quantities(pa.concat_tables(parts).sort_by("id").combine_chunks())


def quantity(name: str, batch: pa.RecordBatch) -> pa.Array:
    """Return a quantity of each example in a checked batch."""
    if name.startswith(SCORE):
        return batch[name]
    if name == "nll":
        return pa.array(log_losses(*_labels_and_probabilities(batch)))
    if name == "correct":
        return pc.equal(batch["label"], batch["prediction"]).cast(pa.float64())
    error = pc.subtract(batch["label"], batch["prediction"])
    return pc.abs(error) if name == "absolute_error" else pc.multiply(error, error)


def arrays(candidate: PredictionsFile, baseline: PredictionsFile) -> PairedArrays:
    """Return both models' probabilities, in memory.

    Raises:
        GateInputError: as for `tally`, or the two differ in their number of classes.
    """

    def narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.select(["id", "label", "probabilities"])

    ids, ours, theirs = [], [], []
    with contextlib.closing(_joined_parts(candidate, baseline, narrow)) as joined:
        for candidate_part, baseline_part in joined:
            ids.append(candidate_part["id"])
            ours.append(_labels_and_probabilities(candidate_part))
            theirs.append(_labels_and_probabilities(baseline_part))
    if len({probabilities.shape[1] for _, probabilities in (*ours, *theirs)}) > 1:
        msg = f"{candidate.name} and {baseline.name}: differ in their number of classes; score "
        msg += "both with the same classes"
        raise GateInputError(msg)
    order = pc.sort_indices(pa.chunked_array([chunk for part in ids for chunk in part.chunks]))
    return PairedArrays(
        labels=_in_order([labels for labels, _ in ours], order),
        candidate=_in_order([probabilities for _, probabilities in ours], order),
        baseline=_in_order([probabilities for _, probabilities in theirs], order),
    )


def _in_order(parts: Sequence[npt.NDArray[Number]], order: pa.Array) -> npt.NDArray[Number]:
    whole: npt.NDArray[Number] = np.concatenate(parts)[order.to_numpy()]
    whole.setflags(write=False)
    return whole


def _labels_and_probabilities(
    rows: pa.RecordBatch | pa.Table,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return labels (n,) and probabilities (n, n_classes) of checked rows, at least one."""
    column = rows["probabilities"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return rows["label"].to_numpy(), column.flatten().to_numpy().reshape(len(rows), -1)


def _count(
    candidate: pa.Table, baseline: pa.Table, columns: Sequence[str], *, with_losses: bool
) -> pa.Table:
    ours, theirs = candidate["right"], baseline["right"]
    outcomes = {
        "both_right": pc.and_(ours, theirs),
        "candidate_only": pc.and_not(ours, theirs),
        "baseline_only": pc.and_not(theirs, ours),
        "neither": pc.invert(pc.or_(ours, theirs)),
    }
    table = {name: candidate[name] for name in columns}
    table |= {name: values.cast(pa.int64()) for name, values in outcomes.items()}
    if with_losses:
        gain = pc.subtract(baseline["loss"], candidate["loss"])
        losses = (candidate["loss"], baseline["loss"], gain, pc.multiply(gain, gain))
        table |= dict(zip(_LOSSES, losses, strict=True))
    return _sum_up(pa.table(table), columns, with_losses=with_losses)


def _sum_up(table: pa.Table, columns: Sequence[str], *, with_losses: bool) -> pa.Table:
    """Return the sums of counts and losses for each combination of `columns`, sorted."""
    figures = [*_OUTCOMES, *(_LOSSES if with_losses else ())]
    # Threads would add floats in a different order each time.
    grouped = table.group_by(list(columns), use_threads=False)
    sums = grouped.aggregate([(name, "sum") for name in figures])
    sums = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return sums.sort_by([(name, "ascending") for name in columns]) if columns else sums


def _joined_parts(
    candidate: PredictionsFile,
    baseline: PredictionsFile,
    narrow: Callable[[pa.RecordBatch], pa.RecordBatch],
) -> Generator[tuple[pa.Table, pa.Table], None, None]:
    """Yield the rows of both files, reduced by `narrow`, with the same example in the same row.

    Each pair of tables has at least one row. They are sorted by id, because the float sum of losses
    depends on the order.
    """
    partitions = math.ceil(max(candidate.n, baseline.n) / _IN_MEMORY)
    with contextlib.ExitStack() as stack:
        ours = _split(candidate, narrow, partitions, stack)
        theirs = ours if baseline is candidate else _split(baseline, narrow, partitions, stack)
        for partition in range(partitions):
            both = _joined(ours(partition), theirs(partition), candidate.name, baseline.name)
            if len(both[0]):
                yield both


def _split(
    file: PredictionsFile,
    narrow: Callable[[pa.RecordBatch], pa.RecordBatch],
    partitions: int,
    stack: contextlib.ExitStack,
) -> Callable[[int], pa.Table]:
    """Return a reader of each partition of `file`; equal ids are in the same partition."""
    if partitions == 1:
        table = pa.Table.from_batches([narrow(batch) for batch in file.batches()])
        return lambda _: table
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gates-")))
    with contextlib.ExitStack() as writers:
        streams: dict[int, pa.RecordBatchFileWriter] = {}
        for batch in map(narrow, file.batches()):
            # Not Python's hash, which differs from process to process.
            hashes = [zlib.crc32(text.encode()) % partitions for text in batch["id"].to_pylist()]
            for partition, rows in _rows_of_partitions(np.array(hashes)):
                if partition not in streams:
                    path = str(folder / f"{partition}.arrow")
                    streams[partition] = writers.enter_context(pa.ipc.new_file(path, batch.schema))
                streams[partition].write_batch(batch.take(pa.array(rows)))
    return lambda partition: _read_partition(folder / f"{partition}.arrow", batch.schema)


def _read_partition(file: Path, schema: pa.Schema) -> pa.Table:
    if not file.exists():
        return schema.empty_table()
    with pa.OSFile(str(file)) as stream:
        return pa.ipc.open_file(stream).read_all()


def _rows_of_partitions(
    hashes: npt.NDArray[np.int64],
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    order = np.argsort(hashes, kind="stable")
    partitions, starts = np.unique(hashes[order], return_index=True)
    yield from zip(partitions.tolist(), np.split(order, starts[1:]), strict=True)


def _joined(
    candidate: pa.Table, baseline: pa.Table, candidate_name: str, baseline_name: str
) -> tuple[pa.Table, pa.Table]:
    """Return both tables sorted by id, with the same example in the same row."""
    ours = _sorted(candidate, candidate_name)
    if baseline is candidate:
        return ours, ours
    theirs = _sorted(baseline, baseline_name)
    if not ours["id"].equals(theirs["id"]):
        _check_all_in(ours, theirs, candidate_name, baseline_name)
        _check_all_in(theirs, ours, baseline_name, candidate_name)
    for column in theirs.column_names:
        if column in ours.column_names and (
            column in ("label", _CLUSTER) or column.startswith(_SUBGROUP)
        ):
            differing = ours["id"].filter(pc.not_equal(ours[column], theirs[column]))
            if len(differing):
                msg = f"{candidate_name} and {baseline_name}: {column.removeprefix(_SUBGROUP)} "
                msg += f"differs in {named(differing)}"
                raise GateInputError(msg)
    return ours, theirs


def _sorted(table: pa.Table, name: str) -> pa.Table:
    """Return `table` sorted by id; every id must be unique."""
    table = table.sort_by("id")
    ids = _array(table["id"])
    is_repeated = pc.equal(ids[1:], ids[:-1])
    if pc.any(is_repeated).as_py():
        repeated = pc.unique(ids[1:].filter(is_repeated))
        msg = f"{name}: has duplicates of {named(repeated)}"
        raise GateInputError(msg)
    return table


def _check_all_in(table: pa.Table, other: pa.Table, name: str, other_name: str) -> None:
    found = pc.is_in(table["id"], value_set=_array(other["id"]))
    missing = table["id"].filter(pc.invert(found))
    if len(missing):
        msg = f"{other_name}: unlike {name}, lacks {named(missing)}"
        raise GateInputError(msg)


def _array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

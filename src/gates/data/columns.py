"""Converts columns of Parquet files that other programs wrote to the types expected here.

pandas, polars, DuckDB and Spark use different types for the same values: text as large_string,
string_view or a dictionary, lists without a fixed size, integers as int64.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class MisfitError(ValueError):
    """A value does not fit the expected type.

    Args:
        found: what was found instead.
        row: the first row with such a value; None if the whole column has another type.
    """

    def __init__(self, found: str, row: int | None = None) -> None:
        super().__init__(found)
        self.row = row


def fitted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Return the values of `column` as `kind`: text, integers, floats, or lists of these.

    Raises:
        MisfitError: the column has another type, or a value is missing or does not fit.
    """
    return _fitted(pa.concat_arrays(column.chunks) if column.num_chunks else _empty(column), kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of `kind` are text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of `kind` are lists, of fixed or variable length."""
    checks = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


def _empty(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)


def _fitted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if not _is_alike(values.type, kind):
        raise MisfitError(str(values.type))
    _refuse_where(pc.is_null(values), lambda _: "a missing value")
    if is_list(kind):
        return _fitted_lists(values, kind)
    if pa.types.is_integer(kind):
        bounds = np.iinfo(str(kind))  # to_pandas_dtype would need pandas
        outside = pc.or_(pc.less(values, bounds.min), pc.greater(values, bounds.max))
        _refuse_where(outside, lambda row: str(values[row]))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(kind)


def _fitted_lists(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if not _is_alike(values.type.value_type, kind.value_type):
        raise MisfitError(str(values.type))
    lengths = pc.list_value_length(values)
    if pa.types.is_fixed_size_list(kind):
        is_other = pc.not_equal(lengths, kind.list_size)
        _refuse_where(is_other, lambda row: f"a list of {lengths[row]}")
    ends = np.cumsum(lengths.to_numpy(zero_copy_only=False))
    try:
        inner = _fitted(values.flatten(), kind.value_type)
    except MisfitError as error:
        found = f"a list with {error}"
        at = 0 if error.row is None else error.row
        raise MisfitError(found, int(np.searchsorted(ends, at, side="right"))) from error
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)
    starts = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.ListArray.from_arrays(starts, inner, type=kind)


def _is_alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    alike = (
        (is_text, is_text),
        (is_list, is_list),
        (pa.types.is_integer, pa.types.is_integer),
        (pa.types.is_floating, pa.types.is_floating),
    )
    return any(ours(wanted) and theirs(found) for ours, theirs in alike)


def _refuse_where(is_wrong: pa.Array, found: Callable[[int], str]) -> None:
    """Raise if any row is wrong; `found` describes the value in a row."""
    if pc.any(is_wrong).as_py():
        row = int(np.argmax(is_wrong.to_numpy(zero_copy_only=False)))
        raise MisfitError(found(row), row)

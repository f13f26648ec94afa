import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError
from gates.evaluation import predictions as module
from gates.evaluation.predictions import Predictions, named, open_predictions, write_predictions
from tests.judged import scored

DIGESTS = {"data_digest": "d" * 64, "checkpoint_digest": "c" * 64}
COLUMNS: dict[str, Any] = {"id": ["a", "b"], "label": [0, 1], "prediction": [0, 0]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.parquet"


def three_examples(**changes: Any) -> Predictions:
    fields: dict[str, Any] = {
        "ids": np.array(["b", "a", "c"]),
        "labels": np.array([0, 1, 1]),
        "predictions": np.array([0, 1, 0]),
        **DIGESTS,
    }
    return Predictions(**fields | changes)


def rows(file: Path) -> dict[str, list[Any]]:
    batches = list(open_predictions(file).batches())
    columns: dict[str, list[Any]] = pa.Table.from_batches(batches).to_pydict()
    return columns


def error_of(file: Path) -> str:
    with pytest.raises(GateInputError) as raised:
        rows(file)
    assert str(raised.value).startswith(f"{file}: ")
    return str(raised.value)


def write(
    file: Path, *, columns: dict[str, Any] | None = None, digests: dict[str, str] | None = None
) -> None:
    """Write a file as another program might: without a content digest."""
    table = pa.table(COLUMNS if columns is None else columns)
    pq.write_table(table.replace_schema_metadata(DIGESTS if digests is None else digests), file)


# ---- writing and reading


def test_read_gives_back_what_was_written(file: Path) -> None:
    written = three_examples(
        probabilities=np.array([[0.9, 0.1], [1 / 3, 2 / 3], [0.75, 0.25]]),
        subgroups={"digit": np.array(["0", "1", "1"]), "thickness": np.array(["x", "y", "z"])},
        config_digest="f" * 64,
    )
    write_predictions(written, file)
    assert rows(file) == {
        "id": ["b", "a", "c"],
        "label": [0, 1, 1],
        "prediction": [0, 1, 0],
        "probabilities": [[0.9, 0.1], [1 / 3, 2 / 3], [0.75, 0.25]],
        "digit": ["0", "1", "1"],
        "thickness": ["x", "y", "z"],
    }
    opened = open_predictions(file)
    assert opened.digests == {"data": "d" * 64, "checkpoint": "c" * 64, "config": "f" * 64}
    assert (opened.n, opened.has_probabilities) == (3, True)
    assert opened.subgroups == ("digit", "thickness")


def test_probabilities_and_config_digest_are_optional(file: Path) -> None:
    write_predictions(three_examples(), file)
    assert not open_predictions(file).has_probabilities
    assert open_predictions(file).digests.keys() == {"data", "checkpoint"}


def test_columns_match_the_contract(file: Path) -> None:
    subgroups = {"digit": np.array(["0", "1", "1"])}
    write_predictions(three_examples(probabilities=np.eye(3), subgroups=subgroups), file)
    described = {field.name: str(field.type) for field in pq.read_schema(file)}
    assert described == {
        "id": "string",
        "label": "int64",
        "prediction": "int64",
        "probabilities": "list<element: double>",
        "digit": "string",
    }


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True),
    seed=st.integers(0, 1000),
    batch=st.integers(1, 5),
)
@settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_predictions_are_read_in_batches_of_any_size(
    file: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str], seed: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.05] * 4, len(ids))
    probabilities[probabilities < 1e-3] = -0.0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    texts = np.empty(len(ids), dtype=object)  # NumPy strings drop a trailing NUL
    texts[:] = ids
    written = three_examples(
        ids=texts,
        labels=rng.integers(4, size=len(ids)),
        predictions=rng.integers(-9, 9, size=len(ids)),
        probabilities=probabilities,
        subgroups={"of": texts[::-1]},
    )
    write_predictions(written, file)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ROWS", batch)
        read = rows(file)
    assert read["id"] == ids
    assert read["of"] == ids[::-1]
    assert np.array(read["probabilities"]).tobytes() == probabilities.tobytes()
    assert read["label"] == written.labels.tolist()
    assert read["prediction"] == written.predictions.tolist()


def test_empty_predictions_are_written_but_not_read(file: Path) -> None:
    write_predictions(scored([]), file)
    assert error_of(file) == f"{file}: holds no examples"


# ---- files written by other programs


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param({"id": pa.array(["a", "b"], pa.large_string())}, ["a", "b"], id="large_id"),
        pytest.param({"id": pa.array(["a", "b"], pa.string_view())}, ["a", "b"], id="string_view"),
        pytest.param(
            {"id": pa.array(["a", "b"]).dictionary_encode()}, ["a", "b"], id="dictionary_of_ids"
        ),
        pytest.param({"label": pa.array([0, 1], pa.uint64())}, [0, 1], id="uint64"),
        pytest.param({"label": pa.array([0, 1], pa.int8())}, [0, 1], id="int8"),
        pytest.param({"kind": pa.array([7, 8], pa.int8())}, ["7", "8"], id="integers"),
        pytest.param({"kind": pa.array([True, False])}, ["true", "false"], id="booleans"),
        pytest.param({"kind": pa.array(["", "é\n"])}, ["", "é\n"], id="any_text"),
        pytest.param(
            {"kind": pa.array(["x", "y"]).dictionary_encode()}, ["x", "y"], id="dictionary"
        ),
        pytest.param(
            {"kind": pa.array(["x", "y"], pa.large_string()).dictionary_encode()},
            ["x", "y"],
            id="dictionary_of_large_text",
        ),
        pytest.param(
            {"probabilities": pa.array([[0.5, 0.5], [0.25, 0.75]], pa.list_(pa.float32(), 2))},
            [[0.5, 0.5], [0.25, 0.75]],
            id="fixed_size_list_of_float32",
        ),
        pytest.param(
            {"probabilities": pa.array([[0.5, 0.5], [0.0, 1.0]], pa.large_list(pa.float16()))},
            [[0.5, 0.5], [0.0, 1.0]],
            id="large_list_of_float16",
        ),
        pytest.param(
            {"probabilities": [[0.5, 0.5 + 9e-4], [-0.0, 1.0]]},
            [[0.5, 0.5 + 9e-4], [0.0, 1.0]],
            id="rounded_probabilities",
        ),
        # A prediction outside the classes is valid, just wrong.
        pytest.param({"prediction": [99, -1]}, [99, -1], id="prediction_outside_the_classes"),
    ],
)
def test_equivalent_types_are_read(file: Path, column: dict[str, Any], expected: list[Any]) -> None:
    write(file, columns=COLUMNS | column)
    (name,) = column
    assert rows(file)[name] == expected


def test_unused_columns_are_ignored(file: Path) -> None:
    more = {"weight": [0.5, float("nan")], "when": [None, None], "nested": [{"a": 1}, {"a": 2}]}
    write(file, columns=COLUMNS | more)
    assert rows(file) == COLUMNS
    assert set(open_predictions(file).subgroups).isdisjoint(more)


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        # A baseline that was never right would let any candidate pass.
        pytest.param(
            {"prediction": [0, None]},
            "prediction has missing values, the first in 1 example: b",
            id="prediction_missing",
        ),
        pytest.param({"prediction": ["0", "0"]}, "prediction must be numbers", id="text"),
        pytest.param({"prediction": [0.0, 0.5]}, "prediction is double; expected", id="floats"),
        pytest.param({"label": [0, None]}, "label has missing values", id="label_missing"),
        pytest.param({"label": ["0", "1"]}, "label must be numbers", id="text_labels"),
        pytest.param(
            {"label": pa.array([0, 2**64 - 1], pa.uint64())}, "not in range", id="huge_label"
        ),
        pytest.param({"id": ["a", None]}, "id has missing values", id="id_missing"),
        pytest.param({"id": [1, 2]}, "id must be text; found int64", id="id_is_number"),
        pytest.param({"kind": ["x", None]}, "kind has missing values", id="subgroup_missing"),
        pytest.param(
            {"probabilities": [[0.5, 0.5], [1.0]]},
            "has a number of probabilities other than 2, in 1 example: b",
            id="lengths",
        ),
        pytest.param(
            {"probabilities": [[0.5, 0.5], None]}, "probabilities has missing", id="list_missing"
        ),
        pytest.param(
            {"probabilities": [[0.5, 0.5], [0.5, None]]},
            "probabilities has missing",
            id="probability_missing",
        ),
        pytest.param({"probabilities": ["x", "y"]}, "must be lists of numbers", id="not_a_list"),
        pytest.param(
            {"probabilities": [["x"], ["y"]]}, "must be lists of numbers", id="lists_of_strings"
        ),
        pytest.param(
            {"probabilities": pa.array([[], []], pa.list_(pa.float64()))},
            "do not sum to 1",
            id="no_classes",
        ),
        pytest.param(
            {"probabilities": [[0.5, 0.5], [float("nan"), 0.5]]},
            "has a probability that is not a number from 0 to 1, in 1 example: b",
            id="nan",
        ),
        pytest.param(
            {"probabilities": [[0.5, 0.5], [float("inf"), 0.5]]}, "not a number", id="infinity"
        ),
        pytest.param({"probabilities": [[0.5, 0.5], [-0.5, 1.5]]}, "from 0 to 1", id="negative"),
        pytest.param(
            {"probabilities": [[0.5, 0.5], [0.5, 0.499]]},
            "has probabilities that do not sum to 1, in 1 example: b",
            id="sum",
        ),
        pytest.param(
            {"label": [0, 2], "probabilities": [[0.5, 0.5], [0.5, 0.5]]},
            "has a label that is not one of its 2 classes, in 1 example: b",
            id="label_outside_the_classes",
        ),
    ],
)
def test_invalid_values_are_refused(file: Path, changes: dict[str, Any], explanation: str) -> None:
    write(file, columns=COLUMNS | changes)
    assert explanation in error_of(file)


def test_number_of_classes_must_be_the_same_in_every_batch(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", 1)
    write(file, columns=COLUMNS | {"probabilities": [[0.5, 0.5], [0.2, 0.3, 0.5]]})
    assert "has a number of probabilities other than 2, in 1 example: b" in error_of(file)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_named(file: Path, column: str) -> None:
    write(file, columns={name: values for name, values in COLUMNS.items() if name != column})
    assert f"lacks {column};" in error_of(file)


@pytest.mark.parametrize("digest", DIGESTS)
def test_missing_digest_is_named(file: Path, digest: str) -> None:
    write(file, digests={name: text for name, text in DIGESTS.items() if name != digest})
    assert f"lacks {digest};" in error_of(file)


@pytest.mark.parametrize("digest", ["", "d" * 63, "D" * 64, "latest"])
def test_invalid_digest_is_refused(file: Path, digest: str) -> None:
    write(file, digests=DIGESTS | {"checkpoint_digest": digest})
    assert f"its checkpoint_digest is {digest!r}" in error_of(file)


def test_duplicate_column_is_refused(file: Path) -> None:
    table = pa.Table.from_arrays(
        [*(pa.array(values) for values in COLUMNS.values()), pa.array([1, 1])],
        names=[*COLUMNS, "label"],
    )
    pq.write_table(table.replace_schema_metadata(DIGESTS), file)
    assert "has more than one column label" in error_of(file)


# ---- damage


def test_missing_file_is_named(file: Path) -> None:
    assert "not readable as predictions" in error_of(file)


@pytest.mark.parametrize("content", [b"", b"x", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_file_that_is_not_parquet_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "not readable as predictions" in error_of(file)


def test_folder_is_refused(file: Path) -> None:
    file.mkdir()
    assert "not readable as predictions" in error_of(file)


@pytest.mark.parametrize("name", ["a b%20.parquet", "ü#?.parquet", "a:b.parquet", "no-suffix"])
def test_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert rows(tmp_path / name)["id"] == ["a", "b"]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda table: table.slice(1), id="row_removed"),
        pytest.param(lambda table: table.take([1, 0]), id="rows_in_another_order"),
        pytest.param(
            lambda table: table.rename_columns(
                ["id", "label", "prediction", "sort"]
            ).replace_schema_metadata(table.schema.metadata),
            id="column_renamed",
        ),
        pytest.param(lambda table: table.drop_columns(["kind"]), id="column_removed"),
        pytest.param(
            lambda table: table.set_column(2, "prediction", pa.array([0, 1])), id="prediction"
        ),
        pytest.param(
            lambda table: table.replace_schema_metadata(
                {**table.schema.metadata, b"checkpoint_digest": b"0" * 64}
            ),
            id="digest",
        ),
        pytest.param(
            lambda table: table.replace_schema_metadata(
                {**table.schema.metadata, b"config_digest": b"0" * 64}
            ),
            id="another_digest",
        ),
    ],
)
def test_change_by_another_program_is_detected(
    file: Path, edit: Callable[[pa.Table], pa.Table]
) -> None:
    subgroups = {"kind": np.array(["x", "y"])}
    two = three_examples(
        ids=np.array(["a", "b"]),
        labels=np.array([0, 1]),
        predictions=np.array([0, 0]),
        subgroups=subgroups,
    )
    write_predictions(two, file)
    table = pq.read_table(file)
    pq.write_table(edit(table), file)
    assert "its content is not what was written" in error_of(file)
    pq.write_table(table, file, row_group_size=1, compression="gzip")
    assert rows(file)["id"] == ["a", "b"]


def test_every_flipped_bit_is_detected_or_harmless(file: Path) -> None:
    write_predictions(
        three_examples(probabilities=np.eye(3), subgroups={"k": np.array(["x"] * 3)}), file
    )
    sound, content = rows(file), file.read_bytes()
    digests = open_predictions(file).digests
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        with contextlib.suppress(GateInputError):
            assert rows(file) == sound, position
            assert open_predictions(file).digests == digests, position


def test_column_name_that_is_not_utf8_is_refused(file: Path) -> None:
    table = pa.table(COLUMNS | {"kind": ["x", "y"]}).replace_schema_metadata(DIGESTS)
    pq.write_table(table, file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"kind", b"k\xffnd"))
    assert "not readable as predictions ('utf-8' codec" in error_of(file)


def test_value_that_is_not_utf8_is_refused(file: Path) -> None:
    table = pa.table(COLUMNS | {"kind": ["x", "y"]}).replace_schema_metadata(DIGESTS)
    pq.write_table(table, file, use_dictionary=False, compression="none")
    file.write_bytes(file.read_bytes().replace(b"\x01\0\0\0x", b"\x01\0\0\0\xff"))
    assert "not readable as predictions (Invalid UTF8" in error_of(file)


# ---- names in errors


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["a"], "1 example: a"),
        (["a", "b"], "2 examples: a, b"),
        (["a", "b", "c", "d"], "4 examples: a, b, c, …"),
        (["", "a b", "c\nd"], "3 examples: '', 'a b', 'c\\nd'"),
        (["é"], "1 example: é"),
    ],
)
def test_first_examples_are_named_unambiguously(ids: list[str], expected: str) -> None:
    assert named(pa.array(ids)) == expected


def test_predictions_are_read_only(file: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        three_examples().data_digest = "x"  # type: ignore[misc]
    assert not file.exists()

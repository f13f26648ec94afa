from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gates.errors import GateInputError
from gates.predictions import Predictions, read_predictions, write_predictions

DIGESTS = {"data_digest": "d" * 64, "checkpoint_digest": "c" * 64}
COLUMNS: dict[str, Any] = {"id": ["a", "b"], "label": [0, 1], "prediction": [0, 0]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.parquet"


def three(**changes: Any) -> Predictions:
    fields: dict[str, Any] = {
        "ids": np.array(["b", "a", "c"]),
        "labels": np.array([0, 1, 1]),
        "predictions": np.array([0, 1, 0]),
        **DIGESTS,
    }
    return Predictions(**fields | changes)


def error_of(file: Path) -> str:
    with pytest.raises(GateInputError) as raised:
        read_predictions(file)
    assert str(raised.value).startswith(f"{file}: ")
    return str(raised.value)


def write(
    file: Path, *, columns: dict[str, Any] | None = None, digests: dict[str, str] | None = None
) -> None:
    table = pa.table(COLUMNS if columns is None else columns)
    pq.write_table(table.replace_schema_metadata(DIGESTS if digests is None else digests), file)


def test_accuracy_is_the_share_predicted_right() -> None:
    assert three().accuracy == pytest.approx(2 / 3)


def test_read_gives_back_what_was_written(file: Path) -> None:
    written = three(
        probabilities=np.array([[0.9, 0.1], [1 / 3, 2 / 3], [0.75, 0.25]]),
        subgroups={"digit": np.array(["0", "1", "1"]), "thickness": np.array(["x", "y", "z"])},
    )
    write_predictions(written, file)
    read = read_predictions(file)
    assert read.ids.tolist() == ["b", "a", "c"]
    assert read.labels.tolist() == [0, 1, 1]
    assert read.predictions.tolist() == [0, 1, 0]
    assert (read.data_digest, read.checkpoint_digest) == ("d" * 64, "c" * 64)
    assert read.probabilities is not None
    assert read.probabilities.tolist() == [[0.9, 0.1], [1 / 3, 2 / 3], [0.75, 0.25]]
    assert {name: values.tolist() for name, values in read.subgroups.items()} == {
        "digit": ["0", "1", "1"],
        "thickness": ["x", "y", "z"],
    }


def test_probabilities_may_be_absent(file: Path) -> None:
    write_predictions(three(), file)
    assert read_predictions(file).probabilities is None


def test_columns_are_those_of_the_contract(file: Path) -> None:
    write_predictions(
        three(probabilities=np.eye(3), subgroups={"digit": np.array(["0", "1", "1"])}), file
    )
    described = {field.name: str(field.type) for field in pq.read_schema(file)}
    assert described == {
        "id": "string",
        "label": "int64",
        "prediction": "int64",
        "probabilities": "list<element: double>",
        "digit": "string",
    }


def test_missing_file_is_named(file: Path) -> None:
    assert "not readable as predictions" in error_of(file)


@pytest.mark.parametrize("content", [b"", b"x", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_file_that_is_no_parquet_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "not readable as predictions" in error_of(file)


def test_file_that_is_cut_off_is_refused(file: Path) -> None:
    write(file)
    file.write_bytes(file.read_bytes()[:-1])
    assert "not readable as predictions" in error_of(file)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_named(file: Path, column: str) -> None:
    write(file, columns={name: values for name, values in COLUMNS.items() if name != column})
    assert f"lacks {column};" in error_of(file)


@pytest.mark.parametrize("digest", DIGESTS)
def test_missing_digest_is_named(file: Path, digest: str) -> None:
    write(file, digests={name: text for name, text in DIGESTS.items() if name != digest})
    assert f"lacks {digest};" in error_of(file)


def test_parquet_of_another_kind_lacks_everything(file: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), file)
    assert "lacks id, label, prediction, data_digest, checkpoint_digest;" in error_of(file)


def test_file_without_examples_is_refused(file: Path) -> None:
    write(file, columns={name: values[:0] for name, values in COLUMNS.items()})
    assert "holds no example" in error_of(file)


def test_example_that_appears_twice_is_named(file: Path) -> None:
    write(
        file,
        columns={"id": ["z", "a", "m", "z", "m"], "label": [0] * 5, "prediction": [0] * 5},
    )
    assert "example m appears more than once" in error_of(file)


@pytest.mark.parametrize(
    "changes",
    [
        # A baseline that was never right would let any candidate pass.
        pytest.param({"prediction": [0, None]}, id="prediction_missing"),
        pytest.param({"prediction": ["0", "0"]}, id="predictions_are_text"),
        pytest.param({"prediction": [0.0, 0.5]}, id="predictions_are_fractions"),
        pytest.param({"label": [0, None]}, id="label_missing"),
        pytest.param({"label": ["0", "1"]}, id="labels_are_text"),
        pytest.param({"id": ["a", None]}, id="id_missing"),
        pytest.param({"probabilities": [[0.5, 0.5], [1.0]]}, id="probabilities_of_two_lengths"),
        pytest.param({"probabilities": [[0.5, 0.5], None]}, id="probabilities_missing"),
        pytest.param({"probabilities": ["x", "y"]}, id="probabilities_are_text"),
    ],
)
def test_values_of_another_kind_are_refused(file: Path, changes: dict[str, Any]) -> None:
    write(file, columns=COLUMNS | changes)
    assert next(iter(changes)) in error_of(file)

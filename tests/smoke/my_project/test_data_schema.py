"""The data still has the properties that the model was designed for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gates.data.declared import read_declared
from tasks.project import ROOT

from my_project import data
from my_project.config import RunConfig


@pytest.fixture(scope="module")
def file(config: RunConfig) -> Path:
    return data.DATASET.prepare(config.data)


@pytest.fixture(scope="module")
def table(file: Path) -> pa.Table:
    return pq.read_table(file)


def test_columns_and_types(table: pa.Table) -> None:
    described = {field.name: str(field.type) for field in table.schema}
    assert described == {
        "id": "string",
        "pixels": "fixed_size_list<element: uint8>[64]",
        "label": "int8",
        "split": "string",
        "thickness": "string",
    }


def test_no_value_is_missing(table: pa.Table) -> None:
    assert len(table) == 1797
    assert {name: table[name].null_count for name in table.column_names} == dict.fromkeys(
        table.column_names, 0
    )


def test_ranges(table: pa.Table) -> None:
    pixels = table["pixels"].combine_chunks().flatten().to_numpy()
    assert (pixels.min(), pixels.max()) == (0, data.LARGEST_PIXEL)
    assert set(table["label"].to_pylist()) == set(range(data.CLASSES))
    assert set(table["thickness"].to_pylist()) == set(data.THICKNESSES)


def test_classes_are_balanced_in_every_split(table: pa.Table) -> None:
    for split in ("train", "validation", "test"):
        labels = table.filter(pa.compute.equal(table["split"], split))["label"].to_numpy()
        shares = np.bincount(labels, minlength=data.CLASSES) / len(labels)
        assert shares.min() > 0.05, split
        assert shares.max() < 0.15, split


def test_splits_have_the_configured_sizes(table: pa.Table) -> None:
    counts = Counter(table["split"].to_pylist())
    shares = {split: count / len(table) for split, count in counts.items()}
    # Three standard errors of a share of 0.7 among 1,797 images.
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.033)


def test_no_image_is_in_two_splits(file: Path) -> None:
    splits = [data.load(file, split) for split in ("train", "validation", "test")]
    images = [image.numpy().tobytes() for examples in splits for image in examples.images]
    ids = [identifier for examples in splits for identifier in examples.ids]
    assert len(set(images)) == len(images) == len(set(ids)) == 1797


def test_data_matches_the_declaration(config: RunConfig) -> None:
    file = ROOT / "configs" / "data" / "my_project.json"
    command = f"python -m my_project.data > {file}"
    assert data.DATASET.declared(config.data) == read_declared(file), (
        f"if the change is intended, run: {command}"
    )

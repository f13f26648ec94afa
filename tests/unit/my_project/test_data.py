"""The handwritten digits, and users' own files with the same schema."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError
from training import config as configs
from training.config import TorchDataConfig
from training.project import Split

from my_project import data
from my_project.config import ModelConfig, RunConfig

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def source_of(source: str, folder: Path) -> TorchDataConfig:
    return TorchDataConfig(source=source, cache_dir=str(folder), workers=0)


def table_of(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]], first: int = 0) -> pa.Table:
    """Return a table as in a user's file, with ids numbered from `first`."""
    return pa.table(
        {
            "id": [f"row-{first + row}" for row in range(len(pixels))],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), 64),
            "label": (np.arange(len(pixels)) % 10).astype(np.int8),
        }
    )


def noise(rows: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 17, (rows, 64), dtype=np.uint8)


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(GateInputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "made" / "when missing"
    return data.DATASET.prepare(source_of("digits", folder))


def test_thickness_is_a_quartile_of_the_reference() -> None:
    # The quartiles of 0 ... 4 are 1, 2 and 3; a value equal to a bound counts as thinner.
    reference = np.array([4, 2, 0, 1, 3])
    assert data.thicknesses(np.array([-9, 1, 2, 3, 4, 99]), reference) == [
        "thinnest",
        "thinnest",
        "thin",
        "thick",
        "thickest",
        "thickest",
    ]


def test_prepare_writes_every_digit_of_scikit_learn(prepared: Path) -> None:
    table = pq.read_table(prepared)
    assert prepared.name == "digits.parquet"
    assert table.schema.equals(data.SCHEMA)
    # The count of each digit, from the data set's own description.
    assert [table["label"].to_pylist().count(digit) for digit in range(10)] == [
        *(178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    ]
    # The first two rows of the first image, a zero, from scikit-learn's documentation.
    assert table["label"][0].as_py() == 0
    assert table["pixels"][0].as_py()[:16] == [
        *(0, 0, 5, 13, 9, 1, 0, 0),
        *(0, 0, 13, 15, 10, 15, 5, 0),
    ]


def test_prepare_names_each_image_by_its_hash(prepared: Path) -> None:
    table = pq.read_table(prepared)
    first = bytes(table["pixels"][0].as_py())
    assert table["id"][0].as_py() == hashlib.sha256(first).hexdigest()[:16]
    assert table["split"].to_pylist() == [
        data.DATASET.split_of(name) for name in table["id"].to_pylist()
    ]


def test_thickness_bounds_come_from_the_training_split(prepared: Path) -> None:
    table = pq.read_table(prepared)
    counts = Counter(
        thickness
        for thickness, split in zip(
            table["thickness"].to_pylist(), table["split"].to_pylist(), strict=True
        )
        if split == "train"
    )
    quarter = sum(counts.values()) / 4
    # Images with exactly as much ink as a bound all go to one side, so quarters are not exact.
    assert counts == pytest.approx(dict.fromkeys(data.THICKNESSES, quarter), abs=20)


def test_splits_of_the_digits_share_no_image_and_no_id(prepared: Path) -> None:
    parts = [data.load(prepared, split) for split in SPLITS]
    images = [image.numpy().tobytes() for part in parts for image in part.images]
    ids = [identifier for part in parts for identifier in part.ids]
    assert len(images) == len(set(images)) == len(set(ids)) == 1797


def test_load_returns_the_examples_of_one_split(data_file: Path) -> None:
    examples = data.load(data_file, "validation")
    assert len(examples) == 10
    assert examples.ids.tolist() == [f"{row:016x}" for row in range(30, 40)]
    assert examples.labels.tolist() == list(range(10))
    assert examples.thicknesses.tolist() == [data.THICKNESSES[row % 4] for row in range(30, 40)]
    assert examples.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_load_scales_ink_from_minus_one_to_one(data_file: Path, table: pa.Table) -> None:
    examples = data.load(data_file, "train")
    assert examples.images.shape == (30, 1, 8, 8)
    assert examples.images.dtype == torch.float32
    pixels = table["pixels"][0].as_py()
    assert examples.images[0].flatten().tolist() == [pixel / 8 - 1 for pixel in pixels]
    assert (examples.images.min().item(), examples.images.max().item()) == (-1, 1)


def test_unneeded_columns_of_an_own_file_are_dropped(tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    table = table_of(noise(50)).append_column("split", pa.array(["test"] * 50))
    pq.write_table(table.append_column("writer", pa.array(["me"] * 50)), own)
    prepared = pq.read_table(data.DATASET.prepare(source_of(str(own), tmp_path / "cache")))
    assert prepared.column_names == data.SCHEMA.names
    assert set(prepared["split"].to_pylist()) == set(SPLITS), "the user's split column was used"


def with_column(name: str, values: pa.Array | None) -> pa.Table:
    """Return a user's table with one column replaced, or removed if `values` is None."""
    table = table_of(noise(4))
    position = table.column_names.index(name)
    return (
        table.remove_column(position)
        if values is None
        else table.set_column(position, name, values)
    )


BAD_SOURCES = [
    pytest.param(
        table_of(np.full((4, 64), 17, dtype=np.uint8)),
        "pixels must be from 0 to 16, found 17",
        id="pixel_of_17",
    ),
    pytest.param(
        with_column("label", pa.array([0, 1, 2, 10], pa.int8())),
        "labels must be from 0 to 9, found 0 to 10",
        id="label_of_10",
    ),
    pytest.param(
        with_column("label", pa.array([-1, 1, 2, 3], pa.int8())),
        "labels must be from 0 to 9, found -1 to 3",
        id="label_below_zero",
    ),
]


@pytest.mark.parametrize(("table", "explanation"), BAD_SOURCES)
def test_invalid_own_parquet_is_refused(tmp_path: Path, table: pa.Table, explanation: str) -> None:
    own, cache = tmp_path / "own.parquet", tmp_path / "cache"
    pq.write_table(table, own)
    error = error_of(lambda: data.DATASET.prepare(source_of(str(own), cache)))
    assert error == f"{own}: {explanation}"
    assert not cache.exists()


@pytest.mark.parametrize("rows", [1, 2])
def test_own_file_without_a_training_example_is_refused(tmp_path: Path, rows: int) -> None:
    own = tmp_path / "own.parquet"
    test_images = [image for image in noise(100) if split_of_image(image) == "test"]
    pq.write_table(table_of(np.array(test_images[:rows])), own)
    assert error_of(lambda: data.DATASET.prepare(source_of(str(own), tmp_path / "cache"))) == (
        f"{own}: has no examples in the train split"
    )


def split_of_image(image: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> str:
    return data.DATASET.split_of(hashlib.sha256(image.tobytes()).hexdigest()[:16])


def splits_in(table: pa.Table) -> dict[str, dict[str, object]]:
    """Map each id to its row without the thickness, whose bounds depend on the other rows."""
    rows: list[dict[str, object]] = data.complete(table, "source").drop(["thickness"]).to_pylist()
    return {str(row["id"]): row for row in rows}


@given(rows=st.integers(30, 60), more=st.integers(1, 30), seed=st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_adding_rows_to_a_file_changes_no_other_row(rows: int, more: int, seed: int) -> None:
    old = table_of(noise(rows, seed))
    new = table_of(noise(more, seed + 1), first=rows)
    before = splits_in(old)
    assert before.items() <= splits_in(pa.concat_tables([old, new])).items()
    assert before.items() <= splits_in(pa.concat_tables([new, old])).items()


@given(rows=st.integers(30, 60), copies=st.lists(st.integers(0, 29)), seed=st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_equal_images_are_in_one_split_even_with_different_ids(
    rows: int, copies: list[int], seed: int
) -> None:
    pixels = noise(rows, seed)
    table = data.complete(table_of(np.concatenate([pixels, pixels[copies]])), "source")
    seen = {split: set[bytes]() for split in SPLITS}
    for image, split in zip(table["pixels"].to_pylist(), table["split"].to_pylist(), strict=True):
        seen[split].add(bytes(image))
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))


SMALL_MODEL = ModelConfig(
    image_size=4, channels=3, classes=7, patch_size=2, width=4, depth=1, heads=1
)


def test_synthetic_examples_are_always_the_same() -> None:
    one = data.synthetic(SMALL_MODEL)
    torch.manual_seed(99)
    other = data.synthetic(SMALL_MODEL)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert one.data_digest == other.data_digest
    assert one.images.shape == (data.SYNTHETIC_EXAMPLES, 3, 4, 4)
    assert set(one.labels.tolist()) == set(range(7))
    assert len(set(one.ids)) == len(one) == data.SYNTHETIC_EXAMPLES


def test_synthetic_examples_do_not_change_the_global_generator() -> None:
    state = torch.get_rng_state()
    data.synthetic(SMALL_MODEL)
    assert torch.equal(torch.get_rng_state(), state)


def test_synthetic_examples_of_another_shape_have_another_digest() -> None:
    larger = SMALL_MODEL.model_copy(update={"image_size": 6})
    assert data.synthetic(SMALL_MODEL).data_digest != data.synthetic(larger).data_digest


def test_synthetic_examples_need_no_file(config_file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "none"
    overrides = ["data.source=synthetic", f"data.cache_dir={cache}"]
    # The digits would not fit this model.
    config = configs.load(
        RunConfig, config_file, [*overrides, "model.image_size=16", "model.classes=3"]
    )
    examples = data.examples_of(config, "train", where="here")
    assert examples.images.shape[1:] == (1, 16, 16)
    assert not cache.exists()


def test_examples_come_from_the_configured_source(config: RunConfig, data_file: Path) -> None:
    examples = data.examples_of(config, "test", where="here")
    assert examples.ids.tolist() == data.load(data_file, "test").ids.tolist()


@pytest.mark.parametrize(
    ("key", "needed"), [("image_size", 8), ("channels", 1), ("classes", 10)], ids=str
)
def test_model_of_another_shape_than_the_data_is_refused(
    config_file: Path, key: str, needed: int
) -> None:
    config = configs.load(RunConfig, config_file, [f"model.{key}=2"])
    assert error_of(lambda: data.examples_of(config, "train", where="a.yaml")) == (
        f"a.yaml: model.{key}: must be {needed} for these examples, got 2"
    )

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError
from my_project import data
from my_project.config import DataConfig


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "made" / "when missing"
    return data.prepare(DataConfig(source="digits", cache_dir=str(folder)))


hashes = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(identifier=hashes)
@settings(derandomize=True, deadline=None)
def test_split_of_an_example_is_always_the_same(identifier: str) -> None:
    assert len({data.split_of(identifier) for _ in range(3)}) == 1


@given(old=st.lists(hashes, unique=True), new=st.lists(hashes, unique=True))
@settings(derandomize=True, deadline=None)
def test_adding_examples_moves_none(old: list[str], new: list[str]) -> None:
    before = {identifier: data.split_of(identifier) for identifier in old}
    after = {identifier: data.split_of(identifier) for identifier in new + old}
    assert before.items() <= after.items()


@given(salt=st.integers())
@settings(derandomize=True, deadline=None, max_examples=8)
def test_splits_get_the_shares_that_are_asked_for(salt: str) -> None:
    names = (hashlib.sha256(f"{salt}{number}".encode()).hexdigest() for number in range(2000))
    counts = Counter(data.split_of(name[:16]) for name in names)
    shares = {split: count / 2000 for split, count in counts.items()}
    # Five standard errors of a share of 0.7 in 2,000.
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.051)


@pytest.mark.parametrize(
    ("identifier", "split"),
    [
        pytest.param("0000", "train", id="first"),
        # 0.7 x 65,536 is 45,875.2 and hexadecimal b333 is 45,875.
        pytest.param("b333", "train", id="last_below_0.70"),
        pytest.param("b334", "validation", id="first_above_0.70"),
        # 0.85 x 65,536 is 55,705.6 and hexadecimal d999 is 55,705.
        pytest.param("d999", "validation", id="last_below_0.85"),
        pytest.param("d99a", "test", id="first_above_0.85"),
        pytest.param("f" * 64, "test", id="last_of_a_whole_sha256"),
    ],
)
def test_split_of_worked_examples(identifier: str, split: str) -> None:
    assert data.split_of(identifier) == split


def test_thickness_is_the_quarter_of_the_reference() -> None:
    # The quartiles of 0 ... 4 are 1, 2 and 3; a bound belongs to the thinner side.
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
    # How often the data set's own description says that each digit appears.
    assert [table["label"].to_pylist().count(digit) for digit in range(10)] == [
        *(178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    ]
    # The first image, a zero: scikit-learn's documentation prints its first two rows.
    assert table["label"][0].as_py() == 0
    assert table["pixels"][0].as_py()[:16] == [
        *(0, 0, 5, 13, 9, 1, 0, 0),
        *(0, 0, 13, 15, 10, 15, 5, 0),
    ]


def test_prepare_names_each_image_by_its_hash(prepared: Path) -> None:
    table = pq.read_table(prepared)
    first = bytes(table["pixels"][0].as_py())
    assert table["id"][0].as_py() == hashlib.sha256(first).hexdigest()[:16]
    assert table["split"].to_pylist() == [data.split_of(name) for name in table["id"].to_pylist()]


def test_prepare_takes_the_bounds_of_thickness_from_the_training_split(prepared: Path) -> None:
    table = pq.read_table(prepared)
    counts = Counter(
        thickness
        for thickness, split in zip(
            table["thickness"].to_pylist(), table["split"].to_pylist(), strict=True
        )
        if split == "train"
    )
    quarter = sum(counts.values()) / 4
    # Images with as much ink as a bound cannot be told apart, so quarters are not exact.
    assert counts == pytest.approx(dict.fromkeys(data.THICKNESSES, quarter), abs=20)


def test_prepare_leaves_a_file_that_is_there(data_file: Path) -> None:
    before = data_file.read_bytes()
    config = DataConfig(source="digits", cache_dir=str(data_file.parent))
    assert data.prepare(config) == data_file
    assert data_file.read_bytes() == before


def test_load_gives_the_examples_of_one_split(data_file: Path) -> None:
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


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        GateInputError, match=r"absent\.parquet: not readable as Parquet; delete it"
    ):
        data.load(tmp_path / "absent.parquet", "train")


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.999])
def test_data_that_is_cut_off_is_refused(data_file: Path, share: float) -> None:
    whole = data_file.read_bytes()
    data_file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(GateInputError, match="not readable as Parquet; delete it"):
        data.load(data_file, "train")


def test_damage_inside_the_data_is_noticed(prepared: Path, tmp_path: Path) -> None:
    # Flipping a bit of a pixel leaves a Parquet file that can be read.
    content = bytearray(prepared.read_bytes())
    damaged = tmp_path / "damaged.parquet"
    for position in range(1000, 60_000, 5000):
        content[position] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(GateInputError, match="not readable as Parquet; delete it"):
            data.load(damaged, "train")
        content[position] ^= 1


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"text": ["a"]}, id="another_table"),
        pytest.param({}, id="no_columns"),
    ],
)
def test_data_of_another_schema_is_refused(tmp_path: Path, columns: dict[str, list[str]]) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(GateInputError, match=r"other\.parquet: its columns are not those of"):
        data.load(file, "train")


def test_column_of_another_type_is_refused(tmp_path: Path, table: pa.Table) -> None:
    file = tmp_path / "other.parquet"
    labels = table["label"].cast(pa.int64())
    pq.write_table(table.set_column(2, "label", labels), file)
    with pytest.raises(GateInputError, match=r"other\.parquet: its columns are not those of"):
        data.load(file, "train")


@pytest.mark.parametrize("label", [-1, 10])
def test_label_that_is_no_digit_is_refused(tmp_path: Path, table: pa.Table, label: int) -> None:
    file = tmp_path / "other.parquet"
    labels = pa.array([label, *table["label"].to_pylist()[1:]], pa.int8())
    pq.write_table(table.set_column(2, data.SCHEMA.field("label"), labels), file)
    with pytest.raises(GateInputError, match=r"other\.parquet: "):
        data.load(file, "train")


def test_split_without_examples_is_refused(tmp_path: Path, table: pa.Table) -> None:
    file = tmp_path / "few.parquet"
    pq.write_table(table.slice(0, 30), file)
    with pytest.raises(GateInputError, match=r"few\.parquet: has no example in the split test"):
        data.load(file, "test")

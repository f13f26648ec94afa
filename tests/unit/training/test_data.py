import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.data.declared import DeclaredData
from gates.errors import GateInputError
from training import command_line
from training.config import TorchDataConfig
from training.data import manifest_of
from training.project import Split

from toy import data
from toy.config import SETTINGS, RunConfig

Prepare = Callable[[pa.Table, Path], Path]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def source_of(source: str, folder: Path) -> TorchDataConfig:
    return TorchDataConfig(source=source, cache_dir=str(folder), workers=0)


def table_of(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]], first: int = 0) -> pa.Table:
    """Return a table as in a user's file, with ids numbered from `first`."""
    return pa.table(
        {
            "id": [f"row-{first + row}" for row in range(len(pixels))],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), 16),
            "label": (np.arange(len(pixels)) % 4).astype(np.int8),
        }
    )


def noise(rows: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 10, (rows, 16), dtype=np.uint8)


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(GateInputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "made" / "when missing"
    return data.DATASET.prepare(source_of("bars", folder))


hashes = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(identifier=hashes)
@settings(derandomize=True, deadline=None)
def test_split_of_an_example_is_always_the_same(identifier: str) -> None:
    assert len({data.DATASET.split_of(identifier) for _ in range(3)}) == 1


@given(old=st.lists(hashes, unique=True), new=st.lists(hashes, unique=True))
@settings(derandomize=True, deadline=None)
def test_adding_examples_moves_none_between_splits(old: list[str], new: list[str]) -> None:
    before = {identifier: data.DATASET.split_of(identifier) for identifier in old}
    after = {identifier: data.DATASET.split_of(identifier) for identifier in new + old}
    assert before.items() <= after.items()


@given(salt=st.integers())
@settings(derandomize=True, deadline=None, max_examples=8)
def test_splits_get_their_configured_shares(salt: str) -> None:
    names = (hashlib.sha256(f"{salt}{number}".encode()).hexdigest() for number in range(2000))
    counts = Counter(data.DATASET.split_of(name[:16]) for name in names)
    shares = {split: count / 2000 for split, count in counts.items()}
    # Five standard errors of a share of 0.7 among 2,000 examples.
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
    assert data.DATASET.split_of(identifier) == split


def test_prepare_writes_every_bundled_example_with_its_split(prepared: Path) -> None:
    table = pq.read_table(prepared)
    assert prepared.name == "bars.parquet"
    assert table.schema.equals(data.SCHEMA)
    assert table.select(data.SOURCE_SCHEMA.names).equals(data.bars())
    images = [np.array(image, dtype=np.uint8) for image in table["pixels"].to_pylist()]
    assert table["split"].to_pylist() == [split_of_image(image) for image in images]


def test_prepare_keeps_an_existing_file(data_file: Path) -> None:
    before = data_file.read_bytes()
    assert data.DATASET.prepare(source_of("bars", data_file.parent)) == data_file
    assert data_file.read_bytes() == before


def test_manifest_describes_the_file(prepared: Path) -> None:
    manifest = json.loads(manifest_of(prepared).read_text())
    table = pq.read_table(prepared)
    assert manifest == {
        "sha256": hashlib.sha256(prepared.read_bytes()).hexdigest(),
        "schema": {
            "id": "string",
            "pixels": "fixed_size_list<item: uint8>[16]",
            "label": "int8",
            "split": "string",
            "brightness": "string",
        },
        "shares": {"train": 0.7, "validation": 0.15, "test": 0.15},
        "counts": dict(Counter(table["split"].to_pylist())),
    }
    assert sum(manifest["counts"].values()) == data.BUNDLED_EXAMPLES
    assert manifest_of(prepared) == prepared.with_name("bars.manifest.json")


def test_splits_of_the_bars_share_no_image_and_no_id(prepared: Path) -> None:
    parts = [data.load(prepared, split) for split in SPLITS]
    images = [image.numpy().tobytes() for part in parts for image in part.images]
    ids = [identifier for part in parts for identifier in part.ids]
    assert len(images) == len(set(images)) == len(set(ids)) == data.BUNDLED_EXAMPLES


def test_load_returns_the_examples_of_one_split(data_file: Path) -> None:
    examples = data.load(data_file, "validation")
    assert len(examples) == 10
    assert examples.ids.tolist() == [f"{row:016x}" for row in range(30, 40)]
    assert examples.labels.tolist() == [row % 4 for row in range(30, 40)]
    assert examples.data_digest == hashlib.sha256(data_file.read_bytes()).hexdigest()


def test_missing_data_is_named(tmp_path: Path) -> None:
    error = error_of(lambda: data.load(tmp_path / "absent.parquet", "train"))
    assert error == (
        f"{tmp_path / 'absent.manifest.json'}: missing or damaged; "
        "delete it if it is there, and the next run writes it again"
    )


def test_missing_prepared_file_is_named(data_file: Path) -> None:
    data_file.unlink()
    error = error_of(lambda: data.load(data_file, "train"))
    assert error == f"{data_file}: cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param('{"sha256": "ab', id="truncated"),
        pytest.param("[]", id="list"),
        pytest.param("{}", id="no_digest"),
        pytest.param("null", id="null"),
    ],
)
def test_damaged_manifest_is_named(data_file: Path, content: str) -> None:
    manifest = manifest_of(data_file)
    manifest.write_text(content)
    error = error_of(lambda: data.load(data_file, "train"))
    assert error.startswith(f"{manifest}: missing or damaged; delete it if")


def test_manifest_of_other_data_is_refused(data_file: Path) -> None:
    manifest_of(data_file).write_text(json.dumps({"sha256": "0" * 64}))
    error = error_of(lambda: data.load(data_file, "train"))
    assert error.startswith(f"{data_file}: does not match the SHA-256 in its manifest; delete both")


def test_deleting_data_and_manifest_restores_the_same_data(prepared: Path, tmp_path: Path) -> None:
    config = source_of("bars", tmp_path)
    file = data.DATASET.prepare(config)
    file.write_bytes(b"damaged")
    file.unlink()
    manifest_of(file).unlink()
    assert data.DATASET.prepare(config).read_bytes() == prepared.read_bytes()


def test_file_split_with_other_shares_is_rewritten(data_file: Path, prepared: Path) -> None:
    manifest = manifest_of(data_file)
    described = json.loads(manifest.read_text())
    described["shares"] = {"train": 0.8, "validation": 0.1, "test": 0.1}
    manifest.write_text(json.dumps(described))
    data.DATASET.prepare(source_of("bars", data_file.parent))
    assert data_file.read_bytes() == prepared.read_bytes()


@pytest.mark.parametrize("content", ["", "[]", '{"shares": '])
def test_prepare_leaves_a_damaged_manifest_for_load_to_report(
    data_file: Path, content: str
) -> None:
    manifest_of(data_file).write_text(content)
    before = data_file.read_bytes()
    data.DATASET.prepare(source_of("bars", data_file.parent))
    assert data_file.read_bytes() == before


def test_file_without_its_manifest_is_rewritten(prepared: Path, tmp_path: Path) -> None:
    # A process killed between writing the two leaves this behind.
    (tmp_path / "bars.parquet").write_bytes(b"half")
    assert data.DATASET.prepare(source_of("bars", tmp_path)).read_bytes() == prepared.read_bytes()


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.999])
def test_truncated_data_is_refused(data_file: Path, share: float) -> None:
    whole = data_file.read_bytes()
    data_file.write_bytes(whole[: int(share * len(whole))])
    error = error_of(lambda: data.load(data_file, "train"))
    assert error.startswith(f"{data_file}: does not match the SHA-256 in its manifest; delete both")


def test_damage_inside_the_data_is_detected(data_file: Path) -> None:
    # Flipping a bit of a pixel leaves a Parquet file that can be read.
    content = bytearray(data_file.read_bytes())
    for position in range(0, len(content), 499):
        content[position] ^= 1
        data_file.write_bytes(content)
        error = error_of(lambda: data.load(data_file, "train"))
        assert "does not match the SHA-256 in its manifest" in error, position
        content[position] ^= 1


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"text": ["a"]}, id="another_table"),
        pytest.param({}, id="no_columns"),
    ],
)
def test_prepared_data_of_another_schema_is_refused(
    tmp_path: Path, prepare: Prepare, columns: dict[str, list[str]]
) -> None:
    file = prepare(pa.table(columns), tmp_path / "other.parquet")
    error = error_of(lambda: data.load(file, "train"))
    assert error == f"{file}: column id must be string, none missing; found no such column"


@pytest.mark.parametrize("split", SPLITS)
def test_split_without_examples_is_refused(
    tmp_path: Path, table: pa.Table, prepare: Prepare, split: Split
) -> None:
    others = table.filter(pa.compute.not_equal(table["split"], split))
    file = prepare(others, tmp_path / "few.parquet")
    error = error_of(lambda: data.load(file, split))
    assert error == f"{file}: has no examples in the {split} split"


@pytest.mark.parametrize("kind", ["path", "file_uri", "memory_uri"])
def test_own_parquet_is_read_from_any_location(tmp_path: Path, kind: str) -> None:
    own = tmp_path / "own.parquet"
    pq.write_table(table_of(noise(50)), own)
    with fsspec.open("memory://mine/own.parquet", "wb") as stream:
        stream.write(own.read_bytes())
    uri = {
        "path": str(own),
        "file_uri": own.as_uri(),
        "memory_uri": "memory://mine/own.parquet",
    }[kind]
    file = data.DATASET.prepare(source_of(uri, tmp_path / "cache"))
    digest = hashlib.sha256(own.read_bytes()).hexdigest()[:12]
    assert file == tmp_path / "cache" / f"own-{digest}.parquet"
    table = pq.read_table(file)
    assert table.schema.equals(data.SCHEMA)
    assert table.select(["id", "pixels", "label"]).to_pydict() == table_of(noise(50)).to_pydict()
    assert sum(len(data.load(file, split)) for split in SPLITS) == 50
    assert own.read_bytes()[:4] == b"PAR1", "the user's file was changed"


def test_changed_own_parquet_is_prepared_as_another_file(tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    pq.write_table(table_of(noise(50)), own)
    before = data.DATASET.prepare(source_of(str(own), tmp_path / "cache"))
    pq.write_table(table_of(noise(50, seed=1)), own)
    after = data.DATASET.prepare(source_of(str(own), tmp_path / "cache"))
    assert before != after
    assert before.exists()


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


PIXEL_TYPE = pa.list_(pa.uint8(), 16)
BAD_SOURCES = [
    pytest.param(
        with_column("id", None),
        "column id must be string, none missing; found no such column",
        id="no_id",
    ),
    pytest.param(
        with_column("pixels", None),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found no such column",
        id="no_pixels",
    ),
    pytest.param(
        with_column("label", None),
        "column label must be int8, none missing; found no such column",
        id="no_label",
    ),
    pytest.param(
        with_column("id", pa.array([1, 2, 3, 4])),
        "column id must be string, none missing; found int64",
        id="id_is_a_number",
    ),
    pytest.param(
        with_column("label", pa.array([1, 2, 300, 4])),
        "column label must be int8, none missing; found 300 in row 3",
        id="label_of_300",
    ),
    pytest.param(
        with_column("pixels", pa.array([[0] * 16, [0] * 15, [0] * 16, [0] * 16])),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found a list of 15 in row 2",
        id="a_list_of_15",
    ),
    pytest.param(
        with_column("pixels", pa.array([[0] * 16, [0] * 16, [0] * 15 + [-1], [0] * 16])),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found a list with -1 in row 3",
        id="a_pixel_below_zero",
    ),
    pytest.param(
        with_column("label", pa.array([1.0, float("nan"), 3.0, 4.0])),
        "column label must be int8, none missing; found double",
        id="label_is_nan",
    ),
    pytest.param(
        with_column("pixels", pa.array(noise(4).astype(np.float32).tolist())),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found list<element: double>",
        id="pixels_are_fractions",
    ),
    pytest.param(
        with_column("id", pa.array(["a", None, "c", "d"])),
        "column id must be string, none missing; found a missing value in row 2",
        id="id_missing_once",
    ),
    pytest.param(
        with_column("label", pa.array([1, None, 3, 4], pa.int8())),
        "column label must be int8, none missing; found a missing value in row 2",
        id="label_missing_once",
    ),
    pytest.param(
        with_column("pixels", pa.array([None, *noise(3).tolist()], PIXEL_TYPE)),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found a missing value in row 1",
        id="image_missing_once",
    ),
    pytest.param(
        with_column("pixels", pa.array([[None] * 16, *noise(3).tolist()], PIXEL_TYPE)),
        "column pixels must be fixed_size_list<item: uint8>[16], none missing; "
        "found a list with a missing value in row 1",
        id="pixel_missing",
    ),
    pytest.param(
        with_column("id", pa.array(["a", "b", "a", "a"])),
        "id a appears 3 times; make the ids unique",
        id="same_id_three_times",
    ),
    pytest.param(
        table_of(np.full((4, 16), 10, dtype=np.uint8)),
        "pixels must be from 0 to 9, found 10",
        id="pixel_of_10",
    ),
    pytest.param(
        table_of(noise(4)).slice(0, 0), "has no examples; name a file with rows", id="no_rows"
    ),
]


@pytest.mark.parametrize(("table", "explanation"), BAD_SOURCES)
def test_invalid_own_parquet_is_refused(tmp_path: Path, table: pa.Table, explanation: str) -> None:
    own, cache = tmp_path / "own.parquet", tmp_path / "cache"
    pq.write_table(table, own)
    error = error_of(lambda: data.DATASET.prepare(source_of(str(own), cache)))
    # Writers name a list's values item or element, and only some versions of pyarrow can read a
    # missing value in a list.
    expected = f"{own}: {explanation}".replace("<element:", "<item:")
    missing = f"{own}: not readable as Parquet (Expected all lists to be of size=16 but"
    assert error.replace("<element:", "<item:") == expected or error.startswith(missing)
    assert not cache.exists()


# Column types as written by pandas 2 and 3, polars, DuckDB and Spark.
EQUIVALENT_TYPES = {
    "id": [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    "label": [pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()],
    "pixels": [
        pa.list_(pa.uint8()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int32()),
        pa.list_(pa.int64(), 16),
    ],
}


@pytest.mark.parametrize(
    ("column", "kind"),
    [(column, kind) for column, kinds in EQUIVALENT_TYPES.items() for kind in kinds],
    ids=str,
)
@pytest.mark.parametrize("has_arrow_schema", [True, False], ids=["arrow", "parquet_only"])
def test_own_parquet_may_have_the_column_types_of_other_programs(
    tmp_path: Path, column: str, kind: pa.DataType, *, has_arrow_schema: bool
) -> None:
    table = table_of(noise(40))
    expected = data.DATASET.prepare(
        source_of(str(written(table, tmp_path / "a")), tmp_path / "cache")
    )
    values = pa.array(table[column].to_pylist(), kind)
    # Reordered, with an index and an unused column, as pandas writes them.
    others = {name: table[name] for name in reversed(table.column_names) if name != column}
    more = {"__index_level_0__": pa.array(range(40)), "weight": pa.array([0.5] * 40)}
    own_table = pa.table({column: values, **more, **others})
    own = written(own_table, tmp_path / "b", store_schema=has_arrow_schema)
    prepared = data.DATASET.prepare(source_of(str(own), tmp_path / "cache"))
    assert pq.read_table(prepared).equals(pq.read_table(expected))


def written(table: pa.Table, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    pq.write_table(table, folder / "own.parquet", **options)
    return folder / "own.parquet"


def test_id_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    own, cache = tmp_path / "own.parquet", tmp_path / "cache"
    offsets, letters = pa.py_buffer(np.arange(5, dtype=np.int32)), pa.py_buffer(b"ab\xffd")
    ids = pa.StringArray.from_buffers(4, offsets, letters)
    pq.write_table(with_column("id", ids), own)
    error = error_of(lambda: data.DATASET.prepare(source_of(str(own), cache)))
    assert error.startswith(f"{own}: not readable as Parquet (")
    assert "UTF8" in error


def test_duplicate_column_is_refused(tmp_path: Path) -> None:
    own, cache = tmp_path / "own.parquet", tmp_path / "cache"
    table = table_of(noise(4))
    twice = pa.Table.from_arrays(
        [*table.columns, table["id"]], names=["id", "pixels", "label", "id"]
    )
    pq.write_table(twice, own)
    assert error_of(lambda: data.DATASET.prepare(source_of(str(own), cache))).startswith(f"{own}: ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"id,pixels,label\n", id="csv"),
        pytest.param(b"PAR1" + b"\0" * 100 + b"PAR1", id="no_footer"),
    ],
)
def test_own_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    own, cache = tmp_path / "own.parquet", tmp_path / "cache"
    own.write_bytes(content)
    error = error_of(lambda: data.DATASET.prepare(source_of(str(own), cache)))
    assert error.startswith(f"{own}: not readable as Parquet (")
    assert "source.parquet" not in error, "names the temporary copy"
    assert not cache.exists()


@pytest.mark.parametrize("source", ["absent.parquet", "nosuch://x", "memory://absent", "digit"])
def test_unreadable_source_is_named(tmp_path: Path, source: str) -> None:
    cache = tmp_path / "cache"
    error = error_of(lambda: data.DATASET.prepare(source_of(source, cache)))
    assert error.startswith(f"data.source: {source}: cannot be read (")
    assert error.endswith("; name bars, synthetic, or the path or address of a Parquet file")
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
    """Map each id to its row without the brightness, whose threshold depends on the other rows."""
    rows: list[dict[str, object]] = data.complete(table, "source").drop(["brightness"]).to_pylist()
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


def test_examples_come_from_the_configured_source(config: RunConfig, data_file: Path) -> None:
    examples = data.examples_of(config, "test", where="here")
    assert examples.ids.tolist() == data.load(data_file, "test").ids.tolist()


def test_declaration_matches_the_manifest(
    config_file: Path,
    tmp_path: Path,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    text = config_file.read_text().replace(f"cache_dir: {tmp_path / 'data'}", "cache_dir: cache")
    (tmp_path / "configs" / "base.yaml").write_text(text)
    assert command_line.declare(SETTINGS, data.DATASET) == 0
    manifest = json.loads(manifest_of(prepared).read_text())
    assert DeclaredData.model_validate_json(capsys.readouterr().out) == DeclaredData(
        digests=[manifest["sha256"]], rows=manifest["counts"], columns=manifest["schema"]
    )

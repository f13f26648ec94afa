"""The data still has the properties that the model was designed for."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gates.data.declared import read_declared
from tasks.project import ROOT

from char_lm import data
from char_lm.config import RunConfig
from char_lm.vocabulary import CHARACTERS


@pytest.fixture(scope="module")
def table(file: Path) -> pa.Table:
    return pq.read_table(file)


def test_columns_and_types(table: pa.Table) -> None:
    described = {field.name: str(field.type) for field in table.schema}
    names = ("id", "text", "module", "package", "split")
    assert described == dict.fromkeys(names, "string")
    assert all(table[name].null_count == 0 for name in names)


def test_no_module_is_in_two_splits(table: pa.Table) -> None:
    places = set(zip(table["module"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert len(places) == len(set(table["module"].to_pylist()))


def test_splits_have_the_configured_sizes(table: pa.Table) -> None:
    splits = dict(zip(table["module"].to_pylist(), table["split"].to_pylist(), strict=True))
    shares = {split: count / len(splits) for split, count in Counter(splits.values()).items()}
    # Three standard errors of a share of 0.7 among 660 modules.
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.054)


def test_every_package_is_in_every_split(table: pa.Table) -> None:
    for split in ("train", "validation", "test"):
        packages = table.filter(pa.compute.equal(table["split"], split))["package"].to_pylist()
        shares = {name: count / len(packages) for name, count in Counter(packages).items()}
        assert set(shares) == set(data.PACKAGES), split
        assert min(shares.values()) > 0.3, split


def test_only_the_last_passage_of_a_module_is_short(table: pa.Table) -> None:
    rows = list(zip(table["module"].to_pylist(), table["text"].to_pylist(), strict=True))
    for (module, text), (following, _) in pairwise(rows):
        assert module != following or len(text) == data.PASSAGE
    assert len(rows) == len(set(table["id"].to_pylist()))


def test_hardly_any_character_is_unknown(table: pa.Table) -> None:
    counts = Counter("".join(table["text"].to_pylist()))
    unknown = sum(count for character, count in counts.items() if character not in CHARACTERS)
    assert unknown / counts.total() < 1e-4


def test_data_matches_the_declaration(config: RunConfig, file: Path) -> None:
    # The digest covers the text of every passage, so this also shows that all Pythons agree.
    # After an intended change: python -m char_lm.data > configs/data/char_lm.json
    assert file.exists()
    declared = read_declared(ROOT / "configs" / "data" / "char_lm.json")
    assert data.DATASET.declared(config.data) == declared

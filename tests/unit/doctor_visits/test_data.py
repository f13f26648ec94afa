import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from gates.errors import GateInputError
from training.config import DataConfig

from doctor_visits import data
from doctor_visits.config import RunConfig


def table(**changes: list[Any]) -> pa.Table:
    """Return a table of three people with different covariates, with `changes` to its columns."""
    columns: dict[str, Any] = {name: [0.0, 1.0, 0.0] for name in data.COVARIATES}
    columns |= {"id": ["a", "b", "c"], "disea": [1.5, 2.5, 3.5], "mdvis": [0.0, 1.0, 40.0]}
    return pa.table({name: (columns | changes)[name] for name in data.SOURCE_SCHEMA.names})


def prepared(folder: Path, source: pa.Table) -> Path:
    pq.write_table(source, folder / "visits.parquet")
    config = DataConfig(source=str(folder / "visits.parquet"), cache_dir=str(folder / "data"))
    return data.DATASET.prepare(config)


def test_rows_are_one_cluster_if_and_only_if_all_covariates_are_equal(config: RunConfig) -> None:
    rows = pq.read_table(data.DATASET.prepare(config.data))
    covariates = np.column_stack([rows[name].to_numpy() for name in data.COVARIATES])
    _, groups = np.unique(covariates, axis=0, return_inverse=True)
    clusters = np.array(rows["cluster"].to_pylist())
    pairs = set(zip(groups.ravel().tolist(), clusters.tolist(), strict=True))
    # pandas counts the same numbers of rows and of distinct rows without mdvis in randhie.
    assert (len(rows), len(pairs), len(set(clusters))) == (20_190, 2_760, 2_760)


def test_no_cluster_is_in_two_splits(config: RunConfig) -> None:
    parts = [set(data.examples_of(config, split, "").clusters) for split in data.DATASET.shares]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 2_760


def test_a_new_row_changes_no_other_row(tmp_path: Path) -> None:
    one, more = tmp_path / "one", tmp_path / "more"
    one.mkdir()
    more.mkdir()
    source = data.randhie().slice(0, 200)
    before = pq.read_table(prepared(one, source.slice(0, 100)))
    after = pq.read_table(prepared(more, source))
    assert after.slice(0, 100).equals(before)


def test_the_target_is_not_a_feature(training: data.Examples) -> None:
    assert training.features.shape == (len(training), 9)
    for column in training.features.T:
        assert not np.array_equal(column, training.labels)


def test_subgroups_are_the_covariates_with_the_same_name(held_out: data.Examples) -> None:
    assert held_out.subgroups.keys() == {"idp", "hlthg", "hlthf", "hlthp"}
    poor = held_out.subgroups["hlthp"] == "1"
    assert set(held_out.subgroups["hlthp"]) == {"0", "1"}
    assert np.array_equal(poor, held_out.features[:, -1] == 1)
    # Health is good, fair, poor or excellent, so nobody has two of these.
    columns = [held_out.subgroups[name] == "1" for name in ("hlthg", "hlthf", "hlthp")]
    assert np.sum(columns, axis=0).max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"mdvis": [0.0, -1.0, 2.0]}, "mdvis cannot be -1.0, in row 2", id="negative"),
        pytest.param({"hlthp": [0.0, 1.0, 2.0]}, "hlthp cannot be 2.0, in row 3", id="indicator"),
        pytest.param({"lpi": [np.nan, 1, 2]}, "lpi cannot be nan, in row 1", id="nan"),
        pytest.param({"mdvis": [np.inf, 1, 2]}, "mdvis cannot be inf, in row 1", id="infinite"),
        pytest.param({"lpi": [None, 1.0, 2.0]}, "column lpi must be double", id="missing"),
        pytest.param({"id": ["a", "a", "b"]}, "id a appears 2 times", id="repeated_id"),
    ],
)
def test_impossible_values_are_reported_in_one_line(
    changes: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(GateInputError) as raised:
        prepared(tmp_path, table(**changes))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_data_without_a_training_example_is_refused(tmp_path: Path) -> None:
    whole = data.complete(data.randhie(), "all")
    held_out = whole.filter(pa.compute.equal(whole["split"], "test")).slice(0, 3)
    with pytest.raises(GateInputError, match="has no examples in the train split"):
        prepared(tmp_path, held_out.select(data.SOURCE_SCHEMA.names))


def test_there_are_as_many_examples_as_ids(training: data.Examples) -> None:
    assert len(training) == len(training.ids) == len(set(training.ids))
    assert len(dataclasses.replace(training, ids=training.ids[:5])) == 5

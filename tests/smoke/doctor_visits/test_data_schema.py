"""The data still has the properties that the model was designed for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gates.data.declared import read_declared

from doctor_visits import data
from doctor_visits.config import RunConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def table(config: RunConfig) -> pa.Table:
    return pq.read_table(data.DATASET.prepare(config.data))


def test_columns_and_types(table: pa.Table) -> None:
    described = {field.name: str(field.type) for field in table.schema}
    numbers = dict.fromkeys((*data.COVARIATES, "mdvis"), "double")
    assert described == {"id": "string", **numbers, "cluster": "string", "split": "string"}


def test_no_value_is_missing(table: pa.Table) -> None:
    assert len(table) == 20_190
    assert sum(column.null_count for column in table.columns) == 0


def test_statistics_match_the_published_table(table: pa.Table) -> None:
    # Cameron and Trivedi (2005), Microeconometrics, table 20.4: mean and standard deviation.
    visits = table["mdvis"].to_numpy()
    assert (visits.mean(), visits.std(ddof=1)) == pytest.approx((2.8604, 4.5044), abs=5e-4)
    assert (visits.min(), visits.max()) == (0, 77)
    for name, published in {"hlthg": 0.3620, "hlthf": 0.0773, "hlthp": 0.0150}.items():
        assert np.mean(table[name].to_numpy()) == pytest.approx(published, abs=5e-5)


def test_splits_have_about_the_configured_sizes(table: pa.Table) -> None:
    counts = Counter(table["split"].to_pylist())
    shares = {split: count / len(table) for split, count in counts.items()}
    # Some clusters have hundreds of rows, so shares of rows vary more than shares of clusters.
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.03)


def test_data_matches_the_declaration(config: RunConfig) -> None:
    # After an intended change:
    # python -m doctor_visits.data > configs/data/doctor_visits.json
    declared = read_declared(ROOT / "configs" / "data" / "doctor_visits.json")
    assert data.DATASET.declared(config.data) == declared

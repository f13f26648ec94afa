"""The examples: people in the RAND Health Insurance Experiment, and their visits to a doctor.

Source: J. P. Newhouse (1993), "Free for All?", as in A. C. Cameron and P. K. Trivedi (2005),
"Microeconometrics"; 20,190 person-years that statsmodels bundles. No column identifies a person,
and more than half of the rows duplicate another one, so rows with identical covariates form one
cluster: no cluster is in two splits, and statistical tests treat a cluster as one observation.

After a change, declare the data again:

    python -m doctor_visits.data > configs/data/doctor_visits.json
"""

import hashlib
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gates.errors import GateInputError
from training import command_line
from training.data import Dataset
from training.project import Split

from doctor_visits.config import SETTINGS, RunConfig

# In the order in which the model takes them: coinsurance, individual deductible plan,
# participation incentive, maximum expenditure (logarithms), physical limitation, chronic diseases,
# and self-rated health, good, fair or poor; otherwise it is excellent.
COVARIATES = ("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
TARGET = "mdvis"  # outpatient visits to a doctor in a year
SUBGROUPS = ("idp", "hlthg", "hlthf", "hlthp")  # each is 0 or 1

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in COVARIATES),
        pa.field(TARGET, pa.float64(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        *SOURCE_SCHEMA,
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of one split.

    Args:
        ids: (n_examples,) unique identifiers.
        features: (n_examples, n_covariates).
        labels: (n_examples,) number of visits.
        clusters: (n_examples,) equal for examples with equal covariates.
        data_digest: SHA-256 of the file they come from.
    """

    ids: npt.NDArray[np.str_]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.str_]
    data_digest: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def subgroups(self) -> dict[str, npt.NDArray[np.str_]]:
        """Whether each example is in each subgroup, "1" or "0", by the subgroup's column."""
        columns = {name: self.features[:, COVARIATES.index(name)] for name in SUBGROUPS}
        return {name: column.astype(np.int64).astype(np.str_) for name, column in columns.items()}


def examples_of(config: RunConfig, split: Split, where: str) -> Examples:  # noqa: ARG001 - interface
    """Return the examples of one split for a run with `config`.

    Raises:
        GateInputError: the data is missing or damaged, or has no example in that split.
    """
    table, digest = DATASET.load(DATASET.prepare(config.data), split)
    return Examples(
        ids=np.array(table["id"].to_pylist(), dtype=np.str_),
        features=_covariates(table).astype(np.float32),
        labels=table[TARGET].to_numpy(),
        clusters=np.array(table["cluster"].to_pylist(), dtype=np.str_),
        data_digest=digest,
    )


def randhie() -> pa.Table:
    """Return the experiment's table with `SOURCE_SCHEMA`; a row's id is its number."""
    # Takes seconds to import, but only the first run needs it.
    from statsmodels.datasets import randhie as source  # noqa: PLC0415

    rows = source.load_pandas().data
    columns = {name: rows[name].to_numpy(np.float64) for name in (*COVARIATES, TARGET)}
    ids = [f"row-{number:05d}" for number in range(len(rows))]
    return pa.table({"id": ids, **columns}, schema=SOURCE_SCHEMA)


def complete(source: pa.Table, name: str) -> pa.Table:
    """Return a table with `SCHEMA` from one with `SOURCE_SCHEMA`; errors call the table `name`.

    Raises:
        GateInputError: no example falls into the training split.
    """
    rows = _covariates(source).astype("<f8")
    clusters = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]
    splits = [DATASET.split_of(cluster) for cluster in clusters]
    if "train" not in splits:
        msg = f"{name}: has no examples in the train split; add rows"
        raise GateInputError(msg)
    table = source.append_column("cluster", pa.array(clusters, pa.string()))
    return table.append_column("split", pa.array(splits, pa.string())).cast(SCHEMA)


def _check_values(table: pa.Table, name: str) -> None:
    for column in (*COVARIATES, TARGET):
        values = table[column].to_numpy()
        is_valid = np.isin(values, (0, 1)) if column in SUBGROUPS else np.isfinite(values)
        if column == TARGET:
            is_valid &= values >= 0
        if not is_valid.all():
            row = int(np.argmin(is_valid))
            msg = f"{name}: {column} cannot be {values[row]}, in row {row + 1}"
            raise GateInputError(msg)


def _covariates(table: pa.Table) -> npt.NDArray[np.float64]:
    """Return the covariates of every row, (n_examples, n_covariates)."""
    return np.column_stack([table[name].to_numpy() for name in COVARIATES])


DATASET = Dataset(
    bundled={"randhie": randhie},
    source_schema=SOURCE_SCHEMA,
    schema=SCHEMA,
    shares={"train": 0.7, "validation": 0.15, "test": 0.15},
    complete=complete,
    check=_check_values,
)


if __name__ == "__main__":
    sys.exit(command_line.declare(SETTINGS, DATASET))

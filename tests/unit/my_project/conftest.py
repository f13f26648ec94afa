"""Real but small fixtures: 60 made-up images and a model of 1,146 parameters."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.prepared import write_prepared
from tests.torch_state import preserve_global_state
from training import config as configs
from training import runs

from my_project import data
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.project import PROJECT

CONFIG = """\
seed: 0
tracking: none
data:
  source: digits
  cache_dir: {cache}
  workers: 0
model:
  image_size: 8
  channels: 1
  classes: 10
  patch_size: 2
  width: 8
  depth: 1
  heads: 2
train:
  epochs: 2
  batch_size: 8
  accumulation_steps: 1
  lr: 1.0e-3
  weight_decay: 0.01
  warmup_share: 0.1
  clip_norm: 1.0
  distortion: 0.0
  mixup: 0.0
  noise: 0.0
  precision: float32
  compile: false
  deterministic: true
  snapshot_every: 3
  parallelism: ddp
  device: cpu
"""


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    with preserve_global_state():
        yield


@pytest.fixture(scope="session")
def prepare() -> Callable[[pa.Table, Path], Path]:
    return write_prepared


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """30 training, 10 validation and 20 test examples, with equally many of each digit."""
    splits = ["train"] * 30 + ["validation"] * 10 + ["test"] * 20
    pixels = np.random.default_rng(0).integers(0, 17, (60, 64), dtype=np.uint8)
    return pa.table(
        {
            "id": [f"{row:016x}" for row in range(60)],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), 64),
            "label": np.arange(60, dtype=np.int8) % 10,
            "split": splits,
            "thickness": [data.THICKNESSES[row % 4] for row in range(60)],
        },
        schema=data.SCHEMA,
    )


@pytest.fixture
def data_file(tmp_path: Path, table: pa.Table) -> Path:
    return write_prepared(table, tmp_path / "data" / "digits.parquet")


@pytest.fixture
def config_file(tmp_path: Path, data_file: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(cache=data_file.parent))
    return file


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return configs.load(RunConfig, config_file)


@pytest.fixture
def training_examples(data_file: Path) -> Examples:
    return data.load(data_file, "train")


@pytest.fixture
def held_out_examples(data_file: Path) -> Examples:
    return data.load(data_file, "test")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> Path:
    """The folder of a run that all tests share; copy a file before changing it."""
    place = tmp_path_factory.mktemp("trained")
    write_prepared(table, place / "data" / "digits.parquet")
    file = place / "tiny.yaml"
    file.write_text(CONFIG.format(cache=place / "data"))
    request = runs.Request(
        project=PROJECT,
        config=configs.load(RunConfig, file),
        outputs=place / "outputs",
        run_id="run",
    )
    with preserve_global_state():
        return runs.train(request).parent


@pytest.fixture
def checkpoint(tmp_path: Path, trained: Path) -> Path:
    file = tmp_path / "outputs" / "run" / "checkpoint.pt"
    file.parent.mkdir(parents=True)
    shutil.copy(trained / "checkpoint.pt", file)
    return file

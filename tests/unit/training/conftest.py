"""Real but small fixtures: the toy project and 60 made-up images."""

import os
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

import toy
from toy import data
from toy.config import RunConfig
from toy.data import Examples
from toy.project import PROJECT

CONFIG = """\
seed: 0
tracking: none
data:
  source: bars
  cache_dir: {cache}
  workers: 0
model:
  pixels: 16
  classes: 4
  width: 8
  depth: 1
train:
  epochs: 2
  batch_size: 8
  accumulation_steps: 1
  lr: 1.0e-3
  weight_decay: 0.01
  warmup_share: 0.1
  clip_norm: 1.0
  mix: 0.0
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


@pytest.fixture(autouse=True)
def _toy_is_importable_in_subprocesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test run `python -m toy.train` in a subprocess."""
    folder = Path(toy.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.fixture(scope="session")
def prepare() -> Callable[[pa.Table, Path], Path]:
    return write_prepared


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """30 training, 10 validation and 20 test examples."""
    splits = ["train"] * 30 + ["validation"] * 10 + ["test"] * 20
    pixels = np.random.default_rng(0).integers(0, 10, (60, data.PIXELS), dtype=np.uint8)
    return pa.table(
        {
            "id": [f"{row:016x}" for row in range(60)],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), data.PIXELS),
            "label": np.arange(60, dtype=np.int8) % data.CLASSES,
            "split": splits,
            "brightness": ["dark", "bright"] * 30,
        },
        schema=data.SCHEMA,
    )


@pytest.fixture
def data_file(tmp_path: Path, table: pa.Table) -> Path:
    return write_prepared(table, tmp_path / "data" / "bars.parquet")


@pytest.fixture
def config_file(tmp_path: Path, data_file: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(cache=data_file.parent))
    return file


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return configs.load(RunConfig, config_file)


@pytest.fixture
def run_request(config: RunConfig, tmp_path: Path) -> runs.Request[RunConfig]:
    return runs.Request(project=PROJECT, config=config, outputs=tmp_path / "outputs", run_id="run")


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
    write_prepared(table, place / "data" / "bars.parquet")
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

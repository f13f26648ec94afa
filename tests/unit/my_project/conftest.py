"""A workplace in which everything is real but small: 60 made-up images and a model of 1,146."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from my_project import config as configs
from my_project import data, runs
from my_project.config import RunConfig
from my_project.data import Examples

CONFIG = """\
seed: 0
data:
  source: digits
  cache_dir: {cache}
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
  lr: 1.0e-3
  weight_decay: 0.01
  warmup_share: 0.1
  clip_norm: 1.0
  device: cpu
"""


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """30 training, 10 validation and 20 test examples, each digit as often as any other."""
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
    file = tmp_path / "data" / "digits.parquet"
    file.parent.mkdir()
    pq.write_table(table, file)
    return file


@pytest.fixture
def config_file(tmp_path: Path, data_file: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(cache=data_file.parent))
    return file


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return configs.load(config_file)


@pytest.fixture
def training_examples(data_file: Path) -> Examples:
    return data.load(data_file, "train")


@pytest.fixture
def held_out_examples(data_file: Path) -> Examples:
    return data.load(data_file, "test")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> Path:
    """The folder of a run that is trained once; copy what you change."""
    place = tmp_path_factory.mktemp("trained")
    (place / "data").mkdir()
    pq.write_table(table, place / "data" / "digits.parquet")
    file = place / "tiny.yaml"
    file.write_text(CONFIG.format(cache=place / "data"))
    folder = runs.start(place / "outputs", "run")
    runs.train(configs.load(file), folder, say=lambda _: None)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, trained: Path) -> Path:
    file = tmp_path / "outputs" / "run" / "checkpoint.pt"
    file.parent.mkdir(parents=True)
    shutil.copy(trained / "checkpoint.pt", file)
    return file


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must exit with 2; return its only line on stderr."""

    def run(command: Callable[[list[str]], int], *arguments: object) -> str:
        try:
            code: object = command([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse ends this way
            code = stop.code
        printed = capsys.readouterr().err
        assert code == 2, printed
        assert printed.count("\n") == 1, printed
        return printed.rstrip("\n")

    return run

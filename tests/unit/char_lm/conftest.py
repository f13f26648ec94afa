"""Real but small fixtures: 40 made-up modules and a model of 3,000 parameters."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from training import config as configs

from char_lm import data
from char_lm.config import RunConfig
from char_lm.data import Examples

CONFIG = """\
seed: 0
tracking: none
data:
  source: {source}
  cache_dir: {cache}
  workers: 0
  passages: null
model:
  embedding: 8
  width: 16
  layers: 1
train:
  epochs: 1
  batch_size: 16
  accumulation_steps: 1
  lr: 1.0e-2
  weight_decay: 0.01
  warmup_share: 0.1
  clip_norm: 1.0
  precision: float32
  compile: false
  deterministic: true
  snapshot_every: 3
  parallelism: ddp
  device: cpu
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: steps are so short that several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file: two passages of each module, the second one short."""
    characters = np.random.default_rng(0)
    rows = [
        (f"{package}.m{number}:{part}", "".join(characters.choice(list("aeintr \n"), length)))
        for number in range(20)
        for package in ("left", "right")
        for part, length in enumerate((40, 9))
    ]
    modules = [identifier.partition(":")[0] for identifier, _ in rows]
    table = pa.table(
        {
            "id": [identifier for identifier, _ in rows],
            "text": [text for _, text in rows],
            "module": modules,
            "package": [module.partition(".")[0] for module in modules],
        }
    )
    file = tmp_path_factory.mktemp("source") / "passages.parquet"
    pq.write_table(table, file)
    return file


@pytest.fixture(scope="session")
def config_file(source: Path) -> Path:
    file = source.with_name("tiny.yaml")
    file.write_text(CONFIG.format(source=source, cache=source.parent / "data"))
    return file


@pytest.fixture(scope="session")
def config(config_file: Path) -> RunConfig:
    return configs.load(RunConfig, config_file)


@pytest.fixture(scope="session")
def held_out_examples(config: RunConfig) -> Examples:
    return data.examples_of(config, "test", where="tiny.yaml")

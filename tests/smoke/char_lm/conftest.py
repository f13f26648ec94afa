from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.project import ROOT
from training import config as configs

from char_lm import data
from char_lm.config import SETTINGS, RunConfig
from char_lm.data import Examples


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: steps are so short that several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    cache = tmp_path_factory.mktemp("data")
    file = ROOT / SETTINGS.configs / "ci-tiny.yaml"
    return configs.load(RunConfig, file, [f"data.cache_dir={cache}"])


@pytest.fixture(scope="session")
def file(config: RunConfig) -> Path:
    """The prepared data, shared because reading all docstrings takes seconds."""
    return data.DATASET.prepare(config.data)


@pytest.fixture(scope="session")
def training_examples(file: Path) -> Examples:
    return data.load(file, "train", 128)


@pytest.fixture(scope="session")
def held_out_examples(file: Path) -> Examples:
    return data.load(file, "test", 128)

import pytest

from tasks.project import ROOT
from training import config as configs

from my_project import data
from my_project.config import RunConfig


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    cache = tmp_path_factory.mktemp("data")
    return configs.load(RunConfig, ROOT / "configs" / "ci-tiny.yaml", [f"data.cache_dir={cache}"])


@pytest.fixture(scope="session")
def training_examples(config: RunConfig) -> data.Examples:
    return data.load(data.DATASET.prepare(config.data), "train")


@pytest.fixture(scope="session")
def held_out_examples(config: RunConfig) -> data.Examples:
    return data.load(data.DATASET.prepare(config.data), "test")

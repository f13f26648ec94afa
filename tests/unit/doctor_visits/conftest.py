from pathlib import Path

import pytest

from training import config as configs

from doctor_visits import data
from doctor_visits.config import RunConfig
from doctor_visits.data import Examples

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    cache = tmp_path_factory.mktemp("data")
    file = ROOT / "configs" / "doctor_visits" / "ci-tiny.yaml"
    return configs.load(RunConfig, file, [f"data.cache_dir={cache}"])


@pytest.fixture(scope="session")
def training(config: RunConfig) -> Examples:
    return data.examples_of(config, "train", "")


@pytest.fixture(scope="session")
def held_out(config: RunConfig) -> Examples:
    return data.examples_of(config, "test", "")

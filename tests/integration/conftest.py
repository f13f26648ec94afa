import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainings import Settings, Trainings
from tests.registries import client, empty_database, messages, one_two, policy, registry, run, store

__all__ = ["client", "empty_database", "messages", "one_two", "policy", "registry", "run", "store"]


@pytest.fixture(scope="session")
def trainings() -> Iterator[Trainings]:
    server = Trainings()
    yield server
    server.close()


@pytest.fixture(scope="session")
def data_cache(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that already contains the prepared digits."""
    cache = tmp_path_factory.mktemp("data")
    settings = Settings({"data.cache_dir": str(cache), "train.epochs": 1, "train.batch_size": 2048})
    ended = trainings.run(settings, tmp_path_factory.mktemp("prepare"))
    assert ended.codes == [0], ended.stderr
    return cache


@pytest.fixture(scope="session")
def training_examples(data_cache: Path) -> int:
    """The number of training examples."""
    manifest = json.loads((data_cache / "digits.manifest.json").read_text())
    return int(manifest["counts"]["train"])


@pytest.fixture(scope="session")
def small(data_cache: Path) -> Settings:
    """Settings with a model and batches so small that steps are cheap."""
    values = {"data.cache_dir": str(data_cache), "model.width": 16, "model.depth": 1}
    return Settings({**values, "model.heads": 2, "train.batch_size": 256})

from pathlib import Path

import pytest

from gates.errors import ConfigError
from tasks.project import ROOT
from training import config as configs

from char_lm.config import SETTINGS, RunConfig


@pytest.mark.parametrize("name", ["ci-tiny", "base"])
def test_committed_configurations_are_valid(name: str) -> None:
    config = configs.load(RunConfig, ROOT / SETTINGS.configs / f"{name}.yaml")
    assert config.data.source == "docstrings"


def test_schema_is_current() -> None:
    schema = ROOT / "src" / "char_lm" / "config.schema.json"
    assert schema.read_text() == configs.json_schema(RunConfig)


@pytest.mark.parametrize("override", ["model.width=0", "data.passages=0", "model.heads=2"])
def test_invalid_value_or_key_is_named(config_file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        configs.load(RunConfig, config_file, [override])

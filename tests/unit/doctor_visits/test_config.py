import json
from pathlib import Path

import pytest

from gates.errors import ConfigError
from training import config as configs

from doctor_visits import train
from doctor_visits.config import SETTINGS, RunConfig

ROOT = Path(__file__).parents[3]
CONFIGS = [ROOT / SETTINGS.configs / name for name in ("base.yaml", "ci-tiny.yaml")]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_is_valid(file: Path) -> None:
    config = configs.load(RunConfig, file)
    assert config.tracking == "none"
    assert configs.load(RunConfig, file, ["model.trees=3"]).model.trees == 3


def test_the_schema_is_current() -> None:
    # After a change: python -m doctor_visits.config > src/doctor_visits/config.schema.json
    schema = ROOT / "src" / "doctor_visits" / "config.schema.json"
    assert schema.read_text() == configs.json_schema(RunConfig)
    assert "huber_quantile" in json.loads(schema.read_text())["$defs"]["ModelConfig"]["required"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.trees=0", "--set: model.trees"),
        ("model.learning_rate=1.5", "--set: model.learning_rate"),
        ("model.huber_quantile=1", "--set: model.huber_quantile"),
        ("model.width=3", "model.width"),
        ("train.epochs=3", "train"),
        ("seed=-1", "seed"),
    ],
)
def test_an_invalid_value_or_key_is_reported_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configs.load(RunConfig, CONFIGS[0], [override])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_print_config_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", str(CONFIGS[0]), "--print-config"]) == 0
    assert "huber_quantile: 0.9\n" in capsys.readouterr().out


def test_the_project_has_its_own_folders_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert SETTINGS.outputs == Path("outputs/doctor_visits")
    assert SETTINGS.policy == Path("configs/doctor_visits/gates.yaml")

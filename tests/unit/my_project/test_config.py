"""The project's configuration keys and the configurations it ships."""

import json
from pathlib import Path

import pytest

from gates.errors import ConfigError
from tasks.project import ROOT
from training import config as configs

import my_project
from my_project.config import RunConfig


def error_of(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        configs.load(RunConfig, file, overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        pytest.param("ci-tiny.yaml", 10, id="ci_tiny"),
        pytest.param("base.yaml", 10, id="base"),
        pytest.param("gpu-bench.yaml", 1000, id="gpu_bench"),
    ],
)
def test_shipped_configuration_loads(name: str, classes: int) -> None:
    assert configs.load(RunConfig, ROOT / "configs" / name).model.classes == classes


@pytest.mark.parametrize("name", ["ci-tiny.yaml", "base.yaml"])
def test_judged_configuration_is_deterministic(name: str) -> None:
    assert configs.load(RunConfig, ROOT / "configs" / name).train.deterministic


def test_load_reads_every_section(config_file: Path, data_file: Path) -> None:
    config = configs.load(RunConfig, config_file)
    assert config.model_dump() == {
        "seed": 0,
        "tracking": "none",
        "data": {"source": "digits", "cache_dir": str(data_file.parent), "workers": 0},
        "model": {
            "image_size": 8,
            "channels": 1,
            "classes": 10,
            "patch_size": 2,
            "width": 8,
            "depth": 1,
            "heads": 2,
        },
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "accumulation_steps": 1,
            "lr": 0.001,
            "weight_decay": 0.01,
            "warmup_share": 0.1,
            "clip_norm": 1.0,
            "distortion": 0.0,
            "mixup": 0.0,
            "noise": 0.0,
            "precision": "float32",
            "compile": False,
            "deterministic": True,
            "snapshot_every": 3,
            "parallelism": "ddp",
            "device": "cpu",
            "patience": None,
            "keep": "last",
        },
    }


def test_every_number_has_a_range() -> None:
    sections = json.loads(configs.json_schema(RunConfig))
    keys = [
        (name, key)
        for section in (sections, *sections["$defs"].values())
        for name, key in section["properties"].items()
        if key.get("type") in {"integer", "number"}
    ]
    assert len(keys) > 15
    for name, key in keys:
        assert key.keys() & {"minimum", "exclusiveMinimum"}, name
        assert key.keys() & {"maximum", "exclusiveMaximum"}, name


def test_committed_schema_is_current() -> None:
    committed = Path(my_project.__file__).with_name("config.schema.json").read_text()
    command = "python -m my_project.config > src/my_project/config.schema.json"
    assert committed == configs.json_schema(RunConfig), command


@pytest.mark.parametrize(
    ("override", "explanation"),
    [
        pytest.param("model.classes=1", "model.classes: must be > 1, got 1", id="one_class"),
        pytest.param("model.width=65537", "model.width: must be <= 65536, got 65537", id="width"),
        pytest.param("train.mixup=-1", "train.mixup: must be >= 0, got -1", id="mixup"),
        pytest.param(
            "train.distort=1",
            "train.distort: unknown key; did you mean distortion?",
            id="typo_in_section",
        ),
        pytest.param(
            "model.heads=3", "model: width 8 is not a multiple of heads 3", id="heads_and_width"
        ),
        pytest.param(
            "model.patch_size=3",
            "model: image_size 8 is not a multiple of patch_size 3",
            id="patches_and_image",
        ),
    ],
)
def test_error_in_an_override_names_the_key(
    config_file: Path, override: str, explanation: str
) -> None:
    assert error_of(config_file, override) == f"--set: {explanation}"

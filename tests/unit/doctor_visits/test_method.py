import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gates.evidence import provenance
from training import config as configs
from training.onnx import trees

from doctor_visits import method, train
from doctor_visits.config import RunConfig
from doctor_visits.data import Examples
from doctor_visits.method import METHOD

WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from doctor_visits import eval, project, train
"""


@pytest.fixture(scope="module")
def outputs(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one configuration, a and b."""
    folder = tmp_path_factory.mktemp("outputs")
    file = folder / "config.yaml"
    file.write_bytes(configs.dump(config))
    for run in ("a", "b"):
        assert train.main(["--config", str(file), "--outputs", str(folder), "--run-id", run]) == 0
    return folder


def test_a_run_writes_its_files(outputs: Path, training: Examples) -> None:
    names = {file.name for file in (outputs / "a").iterdir()}
    assert names == {"checkpoint.onnx", "config.yaml", "metrics.jsonl", "provenance.json"}
    assert (outputs / "latest.onnx").resolve() == outputs / "b" / "checkpoint.onnx"
    statement = provenance.read_of_run(outputs / "a")
    assert provenance.library(statement) == "sklearn"
    assert provenance.facts(statement)["data"] == training.data_digest
    assert {"scikit-learn", "onnx"} <= provenance.runtime(statement).keys()


def test_metrics_have_a_line_per_tree(outputs: Path, config: RunConfig) -> None:
    text = (outputs / "a" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == config.model.trees
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["validation_absolute_error"] > 0


def test_two_runs_write_identical_checkpoints(outputs: Path) -> None:
    one, other = ((outputs / run / "checkpoint.onnx").read_bytes() for run in ("a", "b"))
    assert one == other


def test_the_file_predicts_the_same_as_scikit_learn(
    outputs: Path, config: RunConfig, training: Examples, held_out: Examples
) -> None:
    checkpoint = trees.load(outputs / "a" / "checkpoint.onnx", RunConfig)
    model = method.boosted(config, training)
    np.testing.assert_allclose(
        checkpoint.predict(held_out.features), model.predict(held_out.features), rtol=1e-5
    )
    assert checkpoint.data_digest == training.data_digest
    assert METHOD.config_of(outputs / "a" / "checkpoint.onnx") == config


def test_a_run_is_reproduced_from_its_provenance(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--from-provenance", str(outputs / "a" / "provenance.json"), "--outputs"]
    config_options = ["--config", str(outputs / "config.yaml")]
    assert train.main([*options, str(tmp_path), *config_options]) == 0
    assert "reproduced: the checkpoint is the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra_options", "environment", "message"),
    [
        pytest.param(["--resume"], {}, "trains in one call and keeps no snapshots", id="resume"),
        pytest.param([], {"WORLD_SIZE": "2"}, "torchrun has started 2 processes", id="torchrun"),
    ],
)
def test_unsupported_options_exit_2(  # noqa: PLR0913, PLR0917 - fixtures
    extra_options: list[str],
    environment: dict[str, str],
    message: str,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = ["--config", str(outputs / "config.yaml"), "--outputs", str(tmp_path / "none")]
    assert train.main([*options, "--run-id", "a", *extra_options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_commands_import_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr

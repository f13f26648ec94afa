import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from my_project import config as configs
from my_project.train import main

Refused = Callable[..., str]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_command_leaves_a_checkpoint(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs), "--run-id", "mine"]
    assert main([*options, "--set", "train.epochs=1", "--set", "seed=3"]) == 0
    assert (outputs / "latest.pt").resolve() == (outputs / "mine" / "checkpoint.pt").resolve()
    used = configs.load(outputs / "mine" / "config.yaml")
    assert (used.train.epochs, used.seed) == (1, 3)
    printed = capsys.readouterr()
    assert "epoch 1/1: loss " in printed.out
    assert printed.err == ""


def test_lr_below_zero_in_the_file_is_told_in_one_line(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    config_file.write_text(config_file.read_text().replace("lr: 1.0e-3", "lr: -1"))
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error == f"{config_file}: train.lr: must be > 0, got -1"
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("old", "new", "explanation"),
    [
        pytest.param("seed: 0", "seed: [0", "not valid YAML", id="malformed"),
        pytest.param("seed: 0", "seed: 0\nseed: 1", "duplicate key", id="key_given_twice"),
        pytest.param("  lr:", "  learning_rat:", "train.learning_rat: unknown key", id="unknown"),
        pytest.param("  epochs:", "  epoch:", "did you mean epochs?", id="misspelt"),
        pytest.param("seed: 0", "seed: 2024-13-45", "not valid YAML", id="month_13"),
    ],
)
def test_malformed_file_is_told_in_one_line(
    config_file: Path, outputs: Path, refused: Refused, old: str, new: str, explanation: str
) -> None:
    config_file.write_text(config_file.read_text().replace(old, new))
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{config_file}: ")
    assert explanation in error
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        pytest.param(
            ["--set", "train.lr=-1"], "--set: train.lr: must be > 0, got -1", id="lr_below_zero"
        ),
        pytest.param(
            ["--set", "train.epoch=1"],
            "--set: train.epoch: unknown key; did you mean epochs?",
            id="misspelt_key",
        ),
        pytest.param(["--set", "train.epochs"], "--set train.epochs: expected", id="no_value"),
        pytest.param(["--set", "model.classes=5"], "model", id="fewer_classes_than_digits"),
        pytest.param(["--set", "model.image_size=16"], "model", id="larger_images_than_there_are"),
        pytest.param(["--run-id", "a/b"], "--run-id a/b: use ", id="slash_in_run_id"),
        pytest.param(["--run-id", "latest.pt"], "--run-id latest.pt: ", id="run_id_is_the_link"),
        pytest.param(["--run-id", "a" * 300], "a" * 300, id="run_id_too_long"),
        pytest.param(["--sed", "a=1"], "--sed", id="unknown_option"),
    ],
)
def test_bad_option_is_told_in_one_line(
    config_file: Path, outputs: Path, refused: Refused, options: list[str], explanation: str
) -> None:
    error = refused(main, "--config", config_file, "--outputs", outputs, *options)
    assert explanation in error
    assert not outputs.exists()


def test_missing_config_is_told_in_one_line(
    tmp_path: Path, outputs: Path, refused: Refused
) -> None:
    error = refused(main, "--config", tmp_path / "absent.yaml", "--outputs", outputs)
    assert error.startswith(f"{tmp_path / 'absent.yaml'}: cannot be read")
    assert not outputs.exists()


def test_forgotten_config_is_told_in_one_line(outputs: Path, refused: Refused) -> None:
    assert "--config" in refused(main, "--outputs", outputs)


def test_taken_run_id_leaves_the_run(config_file: Path, outputs: Path, refused: Refused) -> None:
    run = outputs / "mine"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_text("earlier")
    error = refused(main, "--config", config_file, "--outputs", outputs, "--run-id", "mine")
    assert error == f"{run}: there is a run of that name; choose another --run-id"
    assert [path.name for path in outputs.rglob("*")] == ["mine", "checkpoint.pt"]
    assert (run / "checkpoint.pt").read_text() == "earlier"


def test_file_where_the_outputs_should_be_is_kept(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    outputs.write_text("mine")
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{outputs}/")
    assert "cannot be written" in error
    assert outputs.read_text() == "mine"


def test_damaged_data_is_told_in_one_line(
    config_file: Path, data_file: Path, outputs: Path, refused: Refused
) -> None:
    data_file.write_bytes(data_file.read_bytes()[:1000])
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert (
        error == f"{data_file}: not readable as Parquet; delete it, and the next run writes it anew"
    )
    assert not outputs.exists()


def test_data_of_another_schema_is_told_in_one_line(
    config_file: Path, data_file: Path, outputs: Path, refused: Refused
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), data_file)
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{data_file}: its columns are not those of ")
    assert not outputs.exists()


def test_loss_that_is_not_finite_fails_in_one_line(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs)]
    assert main([*options, "--set", "train.lr=1.0", "--set", "train.weight_decay=1e30"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lower train.lr" in error
    assert not (outputs / "latest.pt").exists()


def test_help_and_typos_do_not_wait_for_torch(tmp_path: Path) -> None:
    program = """
import contextlib, sys
from pathlib import Path
from my_project.train import main

with contextlib.suppress(SystemExit):
    main(["--help"])
assert main(["--config", sys.argv[1], "--set", "train.lr=-1"]) == 2
assert "torch" not in sys.modules
"""
    config = tmp_path / "typo.yaml"
    config.write_text("seed: none\n")
    subprocess.run([sys.executable, "-c", program, str(config)], check=True, capture_output=True)


def test_module_is_a_command(config_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "my_project.train", "--config", str(config_file)]
    done = subprocess.run(
        [*command, "--set", "train.lr=-1"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "--set: train.lr: must be > 0, got -1\n"
    assert done.stdout == ""
    assert not (tmp_path / "outputs").exists()

"""The project's commands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.judged import write_policy
from training import config as configs

from my_project import eval as evaluation
from my_project import train as training
from my_project.config import RunConfig

Refused = Callable[..., str]


def test_evaluation_judges_the_checkpoint_that_training_writes(
    config_file: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    options = ["--config", str(config_file), "--outputs", str(outputs), "--run-id", "mine"]
    assert training.main([*options, "--set", "train.epochs=1"]) == 0
    assert configs.load(RunConfig, outputs / "mine" / "config.yaml").train.epochs == 1
    policy = write_policy(tmp_path / "gates.yaml")
    judged = ["--checkpoint", str(outputs / "latest.pt"), "--no-baseline", "first release"]
    judged += ["--policy", str(policy), "--config", str(config_file)]
    assert evaluation.main(judged) == 0
    assert (outputs / "mine" / "predictions.parquet").exists()


def test_model_that_does_not_fit_the_data_is_reported_in_one_line(
    config_file: Path, tmp_path: Path, refused: Refused
) -> None:
    for change in ("model.classes=5", "model.image_size=16"):
        error = refused(training.main, "--config", config_file, "--set", change)
        assert error.startswith(f"{config_file}: model.{change.partition('.')[2].split('=')[0]}: ")
    assert not (tmp_path / "outputs").exists()


def test_help_and_typos_do_not_import_torch(tmp_path: Path) -> None:
    program = """
import contextlib, sys
from my_project import eval, train

for command in (train, eval):
    with contextlib.suppress(SystemExit):
        command.main(["--help"])
assert train.main(["--config", sys.argv[1], "--set", "train.lr=-1"]) == 2
assert "torch" not in sys.modules
"""
    config = tmp_path / "typo.yaml"
    config.write_text("seed: none\n")
    subprocess.run([sys.executable, "-c", program, str(config)], check=True, capture_output=True)


def test_modules_run_as_commands(config_file: Path, checkpoint: Path, tmp_path: Path) -> None:
    train = ["my_project.train", "--config", str(config_file), "--set", "train.lr=-1"]
    absent = str(tmp_path / "absent.pt")
    judge = ["my_project.eval", "--checkpoint", str(checkpoint), "--baseline", absent]
    judge += ["--policy", str(write_policy(tmp_path / "gates.yaml"))]
    expected = {"--set: train.lr: must be > 0, got -1\n": train, f"{absent}: no such file\n": judge}
    for line, words in expected.items():
        done = subprocess.run(
            [sys.executable, "-m", *words],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]

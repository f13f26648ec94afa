"""Only one process at a time may train in a run's folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gates.errors import GateInputError
from training import lock

from toy.train import main

Refused = Callable[..., str]

# Holds the lock of the folder, as training would, until stdin closes.
HOLDER = """
import os, sys
from pathlib import Path
from training.lock import locked

with locked(Path(sys.argv[1]), may_exist=True, say=print):
    if os.fork() == 0:  # like a data loading worker, which briefly outlives its killed parent
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def ignore(_: str) -> None:
    pass


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that trains in `outputs/run`."""
    folder = tmp_path / "outputs" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "resumed"])
def test_a_run_in_progress_is_not_trained_twice(
    holder: "subprocess.Popen[str]",
    config_file: Path,
    tmp_path: Path,
    refused: Refused,
    resume: list[str],
) -> None:
    outputs = tmp_path / "outputs"
    options = ("--config", config_file, "--outputs", outputs, "--run-id", "run", *resume)
    error = refused(main, *options)
    if resume:
        expected = f"{outputs / 'run'}: is being trained by process {holder.pid} on "
        assert error.startswith(expected)
    else:
        assert error.startswith(f"{outputs / 'run'}: this run exists already")
    assert [each.name for each in (outputs / "run").iterdir()] == [lock.NAME]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_can_be_resumed_immediately(
    holder: "subprocess.Popen[str]", config_file: Path, tmp_path: Path, number: int
) -> None:
    os.kill(holder.pid, number)
    holder.wait()
    options = ["--config", str(config_file), "--outputs", str(tmp_path / "outputs")]
    assert main([*options, "--run-id", "run", "--resume", "--set", "train.epochs=1"]) == 0
    assert lock.NAME not in {each.name for each in (tmp_path / "outputs" / "run").iterdir()}


def test_only_one_of_two_simultaneous_runs_gets_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        lock.locked(folder, may_exist=False, say=ignore),
        pytest.raises(GateInputError, match="this run exists already"),
        lock.locked(folder, may_exist=False, say=ignore),
    ):
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(GateInputError, match=r"file/run: cannot be written \(Not a directory\)"),
        lock.locked(tmp_path / "file" / "run", may_exist=True, say=ignore),
    ):
        pass

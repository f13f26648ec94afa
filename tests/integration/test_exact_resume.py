"""Does a run that is killed and resumed end as if nothing had happened?

Every run adds noise to its weights at each step, from torch's, NumPy's and Python's generators,
so that their states matter too.
"""

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import judged
from tests.integration.trainings import (
    Settings,
    Trainings,
    command,
    digest,
    files,
    metrics,
    run_folder,
)

KILLED = [-signal.SIGKILL]


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run, and how many events it had."""

    settings: Settings
    folder: Path
    events: int
    changes: list[str]


@pytest.fixture(scope="module")
def counted_by_calls(
    trainings: Trainings, small: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    folder = tmp_path_factory.mktemp("calls")
    settings = small.but(train__epochs=4, train__snapshot_every=2)
    ended = trainings.run(settings, folder, counts="calls", noisy=True)
    assert ended.codes == [0], ended.stderr
    return Whole(settings, folder, ended.events, [])


@pytest.fixture(scope="module")
def counted_by_files(
    trainings: Trainings, small: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    """Four steps and three snapshots, the last of which replaces the first."""
    folder = tmp_path_factory.mktemp("files")
    settings = small.but(train__epochs=4, train__batch_size=2048, train__snapshot_every=1)
    ended = trainings.run(settings, folder, counts="files", noisy=True)
    assert ended.codes == [0], ended.stderr
    return Whole(settings, folder, ended.events, ended.changes[0])


def snapshots(folder: Path) -> list[str]:
    """Return the names of the snapshots, unfinished ones among them."""
    return sorted(path.name for path in (run_folder(folder) / "snapshots").glob("*"))


def _assert_as_whole(folder: Path, whole: Whole) -> None:
    assert digest(folder) == digest(whole.folder), "weights and all else, bit for bit"
    steps = [line["step"] for line in metrics(folder)]
    assert steps == list(range(1, len(metrics(whole.folder)) + 1)), "each step once"
    assert [line["loss"] for line in metrics(folder)] == [
        line["loss"] for line in metrics(whole.folder)
    ]
    assert files(folder) == files(whole.folder), "nothing unfinished is left"


@pytest.mark.parametrize("seed", range(8))
def test_run_killed_at_any_moment_resumes_to_the_same_bits(
    seed: int, counted_by_calls: Whole, trainings: Trainings, tmp_path: Path
) -> None:
    whole = counted_by_calls
    dies_at = random.Random(seed).randrange(1, whole.events)  # noqa: S311 - to be repeated
    killed = trainings.run(whole.settings, tmp_path, counts="calls", dies_at=dies_at, noisy=True)
    assert killed.codes == KILLED
    assert not (tmp_path / "outputs" / "latest.pt").exists()
    assert trainings.run(whole.settings, tmp_path, noisy=True).codes == [0]
    _assert_as_whole(tmp_path, whole)


@pytest.mark.parametrize("part", range(4))
def test_run_killed_at_each_change_of_a_file_resumes_to_the_same_bits(
    part: int, counted_by_files: Whole, trainings: Trainings, tmp_path: Path
) -> None:
    """All the moments between two operations on files, but for those of the second snapshot."""
    whole = counted_by_files
    moments = [
        number
        for number, change in enumerate(whole.changes, start=1)
        if "step-00000002.unfinished" not in change
    ]
    for dies_at in moments[part::4]:
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        killed = trainings.run(whole.settings, folder, counts="files", dies_at=dies_at, noisy=True)
        assert killed.codes == KILLED
        resumed = trainings.run(whole.settings, folder, noisy=True)
        assert resumed.codes == [0], (whole.changes[dies_at - 1], resumed.stderr)
        _assert_as_whole(folder, whole)


def test_changes_of_files_include_all_that_a_run_writes(counted_by_files: Whole) -> None:
    """The control of the test above: it is only as good as what it kills at."""
    changes = "\n".join(counted_by_files.changes)
    for name in (
        "config.yaml",
        "metrics.jsonl",
        ".distcp",
        ".metadata",
        "manifest.json",
        ".step-00000003.unfinished",
        "checkpoint.pt",
        "latest.pt",
        "provenance.json",
    ):
        assert name in changes


def _calls_of_a_start(trainings: Trainings, settings: Settings, folder: Path) -> int:
    """Return how many calls a resumed run makes that has a single step to go."""
    folder.mkdir()
    assert trainings.run(settings, folder, dies_at=5).codes == KILLED
    return trainings.run(settings, folder, counts="calls").events


def test_twenty_kills_in_a_row_change_nothing(
    small: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    settings = small.but(train__epochs=12, train__snapshot_every=1)
    steps = 60
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    counted = trainings.run(settings, whole, counts="calls", noisy=True)
    start = _calls_of_a_start(trainings, settings.but(train__epochs=1), tmp_path / "start")
    numbers = random.Random(0)  # noqa: S311 - to be repeated
    newest = []
    for _ in range(20):
        # Some die while they start, others after up to five steps.
        dies_at = numbers.randrange(1, start + 5 * counted.events // steps)
        killed = trainings.run(settings, folder, counts="calls", dies_at=dies_at, noisy=True)
        assert killed.codes == KILLED
        newest.append(max(snapshots(folder), default=""))
    assert 5 < len(set(newest)) < 20, "some get further, some do not"
    assert trainings.run(settings, folder, noisy=True).codes == [0]
    _assert_as_whole(folder, Whole(settings, whole, 0, []))
    evaluation = ["-m", "my_project.eval", "--checkpoint", "outputs/latest.pt"]
    evaluation += ["--config", "outputs/run/config.yaml"]
    # A policy that leaves out the floors: so short a training does not reach those of a release.
    evaluation += ["--policy", str(judged.write_policy(folder / "policy.yaml"))]
    evaluated = command([*evaluation, "--no-baseline", "the first"], folder)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.fixture(scope="module")
def interrupted(
    counted_by_calls: Whole, trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was killed after the snapshots of steps 8 and 10."""
    folder = tmp_path_factory.mktemp("interrupted")
    killed = trainings.run(counted_by_calls.settings, folder, dies_at=11, noisy=True)
    assert killed.codes == KILLED
    assert snapshots(folder) == ["step-00000008", "step-00000010"]
    return folder


def _flip_a_byte(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "manifest.json"])
@pytest.mark.parametrize("damage", [_flip_a_byte, _cut_off, Path.unlink])
def test_damaged_snapshot_is_named_and_the_one_before_it_used(
    name: str,
    damage: Callable[[Path], None],
    counted_by_calls: Whole,
    interrupted: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    damage(run_folder(tmp_path) / "snapshots" / "step-00000010" / name)
    resumed = trainings.run(counted_by_calls.settings, tmp_path, noisy=True)
    assert resumed.codes == [0], resumed.stderr
    assert "snapshots/step-00000010: damaged" in resumed.stdout[0]
    assert name in resumed.stdout[0]
    assert "resumed at step 8 from" in resumed.stdout[0]
    _assert_as_whole(tmp_path, counted_by_calls)


@pytest.mark.parametrize("fails_at", ["metrics.jsonl", "snapshots/step-00000012"])
def test_full_disk_keeps_the_snapshots_and_is_told_in_one_line(
    fails_at: str,
    counted_by_calls: Whole,
    interrupted: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    settings = counted_by_calls.settings
    lines = (run_folder(tmp_path) / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    written = len(b"".join(lines[:10]))  # a line more does not fit, or a snapshot does not
    largest_file = written + 10 if fails_at == "metrics.jsonl" else 8_192
    full = trainings.run(settings, tmp_path, largest_file=largest_file, noisy=True)
    assert full.codes == [2], full.stderr
    assert f"{fails_at}: cannot be written (File too large)" in full.stderr[0]
    assert full.stderr[0].count("\n") == 1
    assert snapshots(tmp_path) == ["step-00000008", "step-00000010"]
    resumed = trainings.run(settings, tmp_path, noisy=True)
    assert resumed.codes == [0], resumed.stderr
    assert "resumed at step 10 from" in resumed.stdout[0]
    _assert_as_whole(tmp_path, counted_by_calls)


def test_full_disk_leaves_no_part_of_a_checkpoint(
    counted_by_calls: Whole, trainings: Trainings, tmp_path: Path
) -> None:
    settings = counted_by_calls.settings.but(train__snapshot_every=1000)
    full = trainings.run(settings, tmp_path, largest_file=8_192, noisy=True)
    assert full.codes == [2], full.stderr
    assert "checkpoint.pt: cannot be written (File too large)" in full.stderr[0]
    assert full.stderr[0].count("\n") == 1
    assert files(tmp_path) == ["run", "run/config.yaml", "run/metrics.jsonl"]
    resumed = trainings.run(settings, tmp_path, noisy=True)
    assert resumed.codes == [0], resumed.stderr
    assert (tmp_path / "outputs" / "latest.pt").exists()

"""A run that is killed and resumed ends as if nothing had happened.

Every run adds noise from torch's, NumPy's and Python's generators to its weights at each step, so
that the generators' states matter too.
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
class Reference:
    """An uninterrupted run and its number of events."""

    settings: Settings
    folder: Path
    events: int
    changes: list[str]


@pytest.fixture(scope="module")
def counted_by_calls(
    trainings: Trainings, small: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp("calls")
    settings = small.but(train__epochs=4, train__snapshot_every=2)
    ended = trainings.run(settings, folder, counts="calls", noisy=True)
    assert ended.codes == [0], ended.stderr
    return Reference(settings, folder, ended.events, [])


@pytest.fixture(scope="module")
def counted_by_files(
    trainings: Trainings, small: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    """A run of four steps and three snapshots, the last of which replaces the first."""
    folder = tmp_path_factory.mktemp("files")
    settings = small.but(train__epochs=4, train__batch_size=2048, train__snapshot_every=1)
    ended = trainings.run(settings, folder, counts="files", noisy=True)
    assert ended.codes == [0], ended.stderr
    return Reference(settings, folder, ended.events, ended.changes[0])


def snapshots(folder: Path) -> list[str]:
    """Return the names of the snapshots, including unfinished ones."""
    return sorted(path.name for path in (run_folder(folder) / "snapshots").glob("*"))


def _assert_same_as_reference(folder: Path, reference: Reference) -> None:
    assert digest(folder) == digest(reference.folder), "the checkpoints must be identical"
    steps = [line["step"] for line in metrics(folder)]
    assert steps == list(range(1, len(metrics(reference.folder)) + 1)), "each step must appear once"
    assert [line["loss"] for line in metrics(folder)] == [
        line["loss"] for line in metrics(reference.folder)
    ]
    assert files(folder) == files(reference.folder), "the runs must leave the same files"


@pytest.mark.parametrize("seed", range(8))
def test_run_killed_at_any_moment_resumes_to_the_same_bits(
    seed: int, counted_by_calls: Reference, trainings: Trainings, tmp_path: Path
) -> None:
    reference = counted_by_calls
    dies_at = random.Random(seed).randrange(1, reference.events)  # noqa: S311 - must be repeatable
    killed = trainings.run(
        reference.settings, tmp_path, counts="calls", dies_at=dies_at, noisy=True
    )
    assert killed.codes == KILLED
    assert not (tmp_path / "outputs" / "latest.pt").exists()
    assert trainings.run(reference.settings, tmp_path, noisy=True).codes == [0]
    _assert_same_as_reference(tmp_path, reference)


@pytest.mark.parametrize("offset", range(4))
def test_run_killed_at_each_file_change_resumes_to_the_same_bits(
    offset: int, counted_by_files: Reference, trainings: Trainings, tmp_path: Path
) -> None:
    """Kills before each file operation, except those of the second snapshot."""
    reference = counted_by_files
    moments = [
        number
        for number, change in enumerate(reference.changes, start=1)
        if "step-00000002.unfinished" not in change
    ]
    for dies_at in moments[offset::4]:
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        killed = trainings.run(
            reference.settings, folder, counts="files", dies_at=dies_at, noisy=True
        )
        assert killed.codes == KILLED
        resumed = trainings.run(reference.settings, folder, noisy=True)
        assert resumed.codes == [0], (reference.changes[dies_at - 1], resumed.stderr)
        _assert_same_as_reference(folder, reference)


def test_file_changes_include_everything_that_a_run_writes(counted_by_files: Reference) -> None:
    """Control for the test above, which kills only at the recorded changes."""
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


def _calls_to_start(trainings: Trainings, settings: Settings, folder: Path) -> int:
    """Return how many calls a resumed run with one remaining step makes."""
    folder.mkdir()
    assert trainings.run(settings, folder, dies_at=5).codes == KILLED
    return trainings.run(settings, folder, counts="calls").events


def test_twenty_kills_in_a_row_change_nothing(
    small: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    settings = small.but(train__epochs=12, train__snapshot_every=1)
    steps = 60
    uninterrupted, folder = tmp_path / "uninterrupted", tmp_path / "killed"
    uninterrupted.mkdir()
    folder.mkdir()
    counted = trainings.run(settings, uninterrupted, counts="calls", noisy=True)
    start = _calls_to_start(trainings, settings.but(train__epochs=1), tmp_path / "start")
    numbers = random.Random(0)  # noqa: S311 - must be repeatable
    newest = []
    for _ in range(20):
        # Some die during start-up, others after up to five steps.
        dies_at = numbers.randrange(1, start + 5 * counted.events // steps)
        killed = trainings.run(settings, folder, counts="calls", dies_at=dies_at, noisy=True)
        assert killed.codes == KILLED
        newest.append(max(snapshots(folder), default=""))
    assert 5 < len(set(newest)) < 20, "some runs must make progress and some must not"
    assert trainings.run(settings, folder, noisy=True).codes == [0]
    _assert_same_as_reference(folder, Reference(settings, uninterrupted, 0, []))
    evaluation = ["-m", "my_project.eval", "--checkpoint", "outputs/latest.pt"]
    evaluation += ["--config", "outputs/run/config.yaml"]
    # A policy without a release's floors, which such a short training does not reach.
    evaluation += ["--policy", str(judged.write_policy(folder / "policy.yaml"))]
    evaluated = command([*evaluation, "--no-baseline", "the first"], folder)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.fixture(scope="module")
def interrupted(
    counted_by_calls: Reference, trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
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


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "manifest.json"])
@pytest.mark.parametrize("damage", [_flip_a_byte, _truncate, Path.unlink])
def test_damaged_snapshot_is_named_and_the_previous_one_is_used(
    name: str,
    damage: Callable[[Path], None],
    counted_by_calls: Reference,
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
    _assert_same_as_reference(tmp_path, counted_by_calls)


@pytest.mark.parametrize("fails_at", ["metrics.jsonl", "snapshots/step-00000012"])
def test_full_disk_keeps_the_snapshots_and_is_reported_in_one_line(
    fails_at: str,
    counted_by_calls: Reference,
    interrupted: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    settings = counted_by_calls.settings
    lines = (run_folder(tmp_path) / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    written = len(b"".join(lines[:10]))  # too little for either another line or another snapshot
    largest_file = written + 10 if fails_at == "metrics.jsonl" else 8_192
    full = trainings.run(settings, tmp_path, largest_file=largest_file, noisy=True)
    assert full.codes == [2], full.stderr
    assert f"{fails_at}: cannot be written (File too large)" in full.stderr[0]
    assert full.stderr[0].count("\n") == 1
    assert snapshots(tmp_path) == ["step-00000008", "step-00000010"]
    resumed = trainings.run(settings, tmp_path, noisy=True)
    assert resumed.codes == [0], resumed.stderr
    assert "resumed at step 10 from" in resumed.stdout[0]
    _assert_same_as_reference(tmp_path, counted_by_calls)


def test_full_disk_leaves_no_partial_checkpoint(
    counted_by_calls: Reference, trainings: Trainings, tmp_path: Path
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

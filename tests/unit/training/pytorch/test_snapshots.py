import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gates.errors import CheckpointError
from training.pytorch import loop, snapshots
from training.pytorch.loop import Trainer
from training.pytorch.processes import Processes
from training.pytorch.snapshots import Origin

from toy.config import RunConfig
from toy.data import Examples
from toy.learner import LEARNER

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "snapshots"


@pytest.fixture
def origin(config: RunConfig) -> Origin:
    return Origin(config=config, data_digest="d" * 64)


@pytest.fixture
def trainer(config: RunConfig, training_examples: Examples) -> Trainer:
    """A trainer that has taken all its eight steps, so that its optimiser has state."""
    trainer = loop.new_trainer(loop.new_model(LEARNER, config), config.train)
    loop.fit(trainer, training_examples, config, LEARNER)
    return trainer


@pytest.fixture
def saved(trainer: Trainer, folder: Path, origin: Origin) -> list[Path]:
    """Two snapshots, after steps 7 and 8."""
    made = []
    for step in (7, 8):
        trainer.step = step
        made.append(snapshots.save(folder, trainer, origin, ALONE))
    return made


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact snapshot and the messages about damaged ones."""
    messages: list[str] = []
    return snapshots.newest_intact(folder, say=messages.append), messages


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def new_trainer(config: RunConfig) -> Trainer:
    other = config.model_copy(update={"seed": 99})
    return loop.new_trainer(loop.new_model(LEARNER, other), other.train)


def test_manifest_describes_the_snapshot(saved: list[Path], config: RunConfig) -> None:
    manifest = snapshots.manifest_of(saved[1])
    assert manifest["step"] == 8
    assert manifest["config"] == config.model_dump()
    assert manifest["data_digest"] == "d" * 64
    assert manifest["files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in saved[1].iterdir()
        if file.name != "manifest.json"
    }
    assert ".metadata" in manifest["files"]


def test_restore_recovers_everything_a_step_changes(
    saved: list[Path], trainer: Trainer, config: RunConfig
) -> None:
    restored = new_trainer(config)
    snapshots.restore(saved[0], restored, ALONE)
    assert restored.step == 7
    pairs = zip(restored.model.parameters(), trainer.model.parameters(), strict=True)
    for mine, theirs in pairs:
        assert torch.equal(mine, theirs)
        ours, others = restored.optimizer.state[mine], trainer.optimizer.state[theirs]
        assert ours.keys() == others.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[name], others[name]) for name in ours)
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in (*restored.optimizer.param_groups, *trainer.optimizer.param_groups)
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("has_gauss", [False, True], ids=["plain", "with_a_stored_number"])
def test_random_numbers_continue_where_they_stopped(
    trainer: Trainer, folder: Path, config: RunConfig, origin: Origin, *, has_gauss: bool
) -> None:
    def draw() -> list[object]:
        return [
            torch.rand(3).tolist(),
            random.random(),  # noqa: S311
            random.gauss(0, 1),
            np.random.rand(),  # noqa: NPY002
            np.random.randn(),  # noqa: NPY002
        ]

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    if has_gauss:
        # Both generate two normal numbers at a time and store the second.
        random.gauss(0, 1)
        np.random.randn()  # noqa: NPY002
    snapshot = snapshots.save(folder, trainer, origin, ALONE)
    expected = draw()
    assert draw() != expected
    snapshots.restore(snapshot, new_trainer(config), ALONE)
    assert draw() == expected


class TorchWithGpu:
    """Stands in for torch: the real module, but with a GPU whose state is one number."""

    def __init__(self, state: int) -> None:
        self.given: list[int] = []
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_rng_state=lambda: torch.tensor([state], dtype=torch.uint8),
            set_rng_state=lambda drawn: self.given.append(drawn.item()),
        )

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def test_snapshot_made_without_a_gpu_is_restored_with_one(
    saved: list[Path], config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = TorchWithGpu(state=1)
    monkeypatch.setattr(snapshots, "torch", machine)
    restored = new_trainer(config)
    snapshots.restore(saved[1], restored, ALONE)
    assert restored.step == 8
    assert machine.given == [], "the GPU's generator must keep its seed"


def test_snapshot_made_with_a_gpu_is_restored_with_and_without_one(
    trainer: Trainer,
    folder: Path,
    config: RunConfig,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "torch", TorchWithGpu(state=1))
        snapshot = snapshots.save(folder, trainer, origin, ALONE)
        machine = TorchWithGpu(state=2)
        patched.setattr(snapshots, "torch", machine)
        snapshots.restore(snapshot, new_trainer(config), ALONE)
        assert machine.given == [1]
    restored = new_trainer(config)
    snapshots.restore(snapshot, restored, ALONE)
    assert restored.step == trainer.step


def test_only_the_newest_two_are_kept(trainer: Trainer, folder: Path, origin: Origin) -> None:
    for step in (5, 20, 100, 3_000_000):
        trainer.step = step
        snapshots.save(folder, trainer, origin, ALONE)
    kept = ["step-00000100", "step-03000000"]
    assert snapshots.names(folder) == kept
    assert sorted(path.name for path in folder.iterdir()) == kept


def test_folder_without_a_snapshot_has_no_newest(folder: Path) -> None:
    assert newest(folder) == (None, [])
    folder.mkdir(parents=True)
    assert newest(folder) == (None, [])


def test_newest_snapshot_has_the_last_step(saved: list[Path], folder: Path) -> None:
    assert newest(folder) == (saved[1], [])


def test_unfinished_snapshot_is_skipped_and_deleted(
    saved: list[Path], trainer: Trainer, folder: Path, origin: Origin
) -> None:
    # A kill in the middle of a save leaves this behind.
    unfinished = folder / ".step-00000009.unfinished"
    unfinished.mkdir()
    (unfinished / "__0_0.distcp").write_bytes(b"half")
    (unfinished / "__7_0.distcp").write_bytes(b"of another process, long ago")
    assert newest(folder) == (saved[1], [])
    trainer.step = 9
    snapshot = snapshots.save(folder, trainer, origin, ALONE)
    assert not unfinished.exists()
    assert sorted(path.name for path in snapshot.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "manifest.json",
    ]


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_flipped_bit_is_reported_and_the_previous_snapshot_is_used(
    saved: list[Path], folder: Path, name: str, share: float
) -> None:
    file = saved[1] / name
    flip(file, round(share * (len(file.read_bytes()) - 1)))
    assert newest(folder) == (
        saved[0],
        [f"{saved[1]}: damaged ({name} does not match its digest); using the snapshot before it"],
    )


def test_flipped_bit_in_the_manifest_is_reported_or_changes_nothing(
    saved: list[Path], folder: Path
) -> None:
    manifest = saved[1] / "manifest.json"
    before = snapshots.manifest_of(saved[1])
    whole = manifest.read_bytes()
    outcomes = set()
    # A prime stride hits names, numbers and digests.
    for position in range(0, len(whole), 13):
        flip(manifest, position)
        found, messages = newest(folder)
        if found == saved[1]:
            # Only whitespace changed, so the JSON reads the same.
            assert snapshots.manifest_of(found) == before, position
            outcomes.add("did not matter")
        else:
            assert found == saved[0]
            assert len(messages) == 1
            assert messages[0].startswith(f"{saved[1]}: damaged (")
            outcomes.add("refused")
        manifest.write_bytes(whole)
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(".metadata", ".metadata is missing", id="metadata"),
        pytest.param("__0_0.distcp", "__0_0.distcp is missing", id="shard"),
        pytest.param("manifest.json", "manifest.json: FileNotFoundError", id="manifest"),
    ],
)
def test_missing_file_is_named(saved: list[Path], folder: Path, name: str, problem: str) -> None:
    (saved[1] / name).unlink()
    message = f"{saved[1]}: damaged ({problem}); using the snapshot before it"
    assert newest(folder) == (saved[0], [message])


def test_remains_of_killed_processes_are_dropped(saved: list[Path], folder: Path) -> None:
    # A kill after renaming a new snapshot and before dropping the oldest leaves three.
    (folder / "step-00000006").mkdir()
    (folder / ".step-00000009.unfinished").mkdir()
    snapshots.remove_leftovers(folder, saved[1])
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000007", "step-00000008"]


def test_snapshots_before_a_damaged_one_are_kept(saved: list[Path], folder: Path) -> None:
    snapshots.remove_leftovers(folder, saved[0])
    assert snapshots.names(folder) == ["step-00000007", "step-00000008"]


def test_nothing_is_dropped_without_a_snapshot(folder: Path) -> None:
    snapshots.remove_leftovers(folder, None)
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"files": 3}', b"\xff"])
def test_invalid_manifest_is_reported(saved: list[Path], folder: Path, content: bytes) -> None:
    (saved[1] / "manifest.json").write_bytes(content)
    found, messages = newest(folder)
    assert found == saved[0]
    assert messages[0].startswith(f"{saved[1]}: damaged (manifest.json")


def test_only_damaged_snapshots_are_an_error(saved: list[Path], folder: Path) -> None:
    for snapshot in saved:
        flip(snapshot / "__0_0.distcp", 0)
    messages: list[str] = []
    with pytest.raises(CheckpointError) as raised:
        snapshots.newest_intact(folder, say=messages.append)
    assert str(raised.value) == (
        f"{folder}: no snapshot is intact; start a new run with another --run-id"
    )
    assert [line.split(":")[0] for line in messages] == [str(saved[1]), str(saved[0])]


def test_damaged_snapshot_is_replaced_when_its_step_is_saved_again(
    saved: list[Path], trainer: Trainer, folder: Path, origin: Origin
) -> None:
    flip(saved[1] / "__0_0.distcp", 0)
    snapshots.save(folder, trainer, origin, ALONE)
    assert newest(folder) == (saved[1], [])


class Calls:
    """Calls `function` when unpickled."""

    def __init__(self, function: Callable[[str], object], argument: str) -> None:
        self.function = function
        self.argument = argument

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self.function, (self.argument,)


def dotted_os_system(argument: str) -> bytes:
    """Return a pickle that reaches os.system through a module that metadata may load classes from.

    Protocol 4 allows dots in a name: `os.system` is looked up in that module, which imports os.
    """
    module = b"torch.distributed.checkpoint.filesystem"
    return (
        b"\x80\x04"
         b"\x8c" + bytes([len(module)]) + module
        + b"\x8c\x09os.system"
        + b"\x93"
        + b"\x8c" + bytes([len(argument)]) + argument.encode()
        + b"\x85R."
    )  # fmt: skip


def payload_of(kind: str, marker: Path) -> bytes:
    if kind == "dotted_name":
        return dotted_os_system(f"touch {marker}")
    if kind == "eval":
        return pickle.dumps(Calls(eval, f"open({str(marker)!r}, 'w')"))
    return pickle.dumps(Calls(os.system, f"touch {marker}"))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        pytest.param("dotted_name", "torch.distributed.checkpoint.filesystem.os.system", id="dots"),
        pytest.param("eval", "builtins.eval", id="eval"),
        pytest.param("os_system", "posix.system", id="os_system"),
    ],
)
def test_code_in_the_metadata_is_refused_and_not_run(
    saved: list[Path], config: RunConfig, tmp_path: Path, kind: str, named: str
) -> None:
    marker = tmp_path / "m"
    (saved[1] / ".metadata").write_bytes(payload_of(kind, marker))
    with pytest.raises(CheckpointError) as raised:
        snapshots.restore(saved[1], new_trainer(config), ALONE)
    assert str(raised.value).startswith(f"{saved[1]}: cannot be read (")
    # Torch before 2.13 does not report why there is no metadata.
    reasons = (f"metadata refers to {named}, which is not allowed", "(metadata is None)")
    assert any(reason in str(raised.value) for reason in reasons)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("kind", ["dotted_name", "eval", "os_system"])
def test_planted_code_would_run_with_plain_pickle(tmp_path: Path, kind: str) -> None:
    # Control for the tests above: the payload does run when unpickled.
    marker = tmp_path / "m"
    pickle.loads(payload_of(kind, marker))  # noqa: S301 - our own payload
    assert marker.exists()


def test_code_in_a_shard_is_refused_and_not_run(
    saved: list[Path], config: RunConfig, tmp_path: Path
) -> None:
    marker = tmp_path / "m"
    shard = saved[1] / "__0_0.distcp"
    content = shard.read_bytes()
    shard.write_bytes(payload_of("os_system", marker).ljust(len(content), b"\0"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        snapshots.restore(saved[1], new_trainer(config), ALONE)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04N.", b"not a pickle"])
def test_invalid_metadata_is_reported_in_one_line(
    saved: list[Path], config: RunConfig, content: bytes
) -> None:
    (saved[1] / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        snapshots.restore(saved[1], new_trainer(config), ALONE)
    assert str(raised.value).startswith(f"{saved[1]}: cannot be read (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"width": 16}, "ize", id="wider"),
        pytest.param({"depth": 2}, "blocks.1", id="deeper"),
    ],
)
def test_model_of_another_size_is_reported_in_one_line(
    saved: list[Path], config: RunConfig, change: dict[str, int], named: str
) -> None:
    other = config.model_copy(update={"model": config.model.model_copy(update=change)})
    trainer = loop.new_trainer(loop.new_model(LEARNER, other), other.train)
    with pytest.raises(CheckpointError) as raised:
        snapshots.restore(saved[1], trainer, ALONE)
    assert str(raised.value).startswith(f"{saved[1]}: cannot be read (")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_failed_save_names_the_snapshot_that_is_left(
    saved: list[Path], trainer: Trainer, folder: Path, origin: Origin
) -> None:
    trainer.step = 9
    digests = {file: file.read_bytes() for path in saved for file in path.iterdir()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshots, "save_shards", no_space)
        with pytest.raises(CheckpointError) as raised:
            snapshots.save(folder, trainer, origin, ALONE)
    assert str(raised.value) == (
        f"{folder / 'step-00000009'}: cannot be written (No space left on device); "
        f"{saved[1]} is intact; fix the cause, then --resume"
    )
    assert {file: file.read_bytes() for path in saved for file in path.iterdir()} == digests
    assert sorted(path.name for path in folder.iterdir()) == snapshots.names(folder)


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def no_space_through_torch(*_: object, **__: object) -> None:
    """Fail as torch's writer does when the disk fills up in the middle of a file."""
    try:
        no_space()
    finally:
        msg = "[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598"
        raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        pytest.param("training.pytorch.snapshots.save_shards", no_space_through_torch, id="shard"),
        # The manifest is written last.
        pytest.param("gates.files._fsync_folder", no_space, id="manifest"),
    ],
)
def test_full_disk_is_reported_wherever_writing_fails(
    saved: list[Path],
    trainer: Trainer,
    folder: Path,
    origin: Origin,
    place: str,
    failure: Callable[..., None],
) -> None:
    trainer.step = 9
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place, failure)
        with pytest.raises(CheckpointError) as raised:
            snapshots.save(folder, trainer, origin, ALONE)
    assert "step-00000009: cannot be written (No space left on device); " in str(raised.value)
    assert f"; {saved[1]} is intact; " in str(raised.value)
    assert sorted(path.name for path in folder.iterdir()) == snapshots.names(folder)


def test_snapshot_of_an_earlier_version_is_refused(saved: list[Path]) -> None:
    file = saved[1] / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["attempts"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"written by another version of this project \('attempts'\)"
    ):
        snapshots.origin_of(saved[1], RunConfig)


def test_failed_first_save_reports_that_there_is_no_other_snapshot(
    trainer: Trainer, folder: Path, origin: Origin
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("mine")
    with pytest.raises(CheckpointError) as raised:
        snapshots.save(folder, trainer, origin, ALONE)
    assert "written (Not a directory); there is no earlier snapshot; " in str(raised.value)
    assert folder.read_text() == "mine"


def test_manifest_is_valid_json(saved: list[Path]) -> None:
    assert json.loads((saved[1] / "manifest.json").read_text())["step"] == 8

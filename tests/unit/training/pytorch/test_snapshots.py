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
    """One that has taken all its eight steps, so that its optimiser has a state."""
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
    """The newest whole snapshot, and what is said about those that are not."""
    said: list[str] = []
    return snapshots.newest_whole(folder, say=said.append), said


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def new_trainer(config: RunConfig) -> Trainer:
    other = config.model_copy(update={"seed": 99})
    return loop.new_trainer(loop.new_model(LEARNER, other), other.train)


def test_manifest_says_what_the_snapshot_holds(saved: list[Path], config: RunConfig) -> None:
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


def test_restore_gives_back_all_that_a_step_changes(
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


@pytest.mark.parametrize("has_gauss", [False, True], ids=["plain", "with_a_number_in_hand"])
def test_random_numbers_go_on_where_they_were(
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
        # Both make two normal numbers at a time, and keep the second.
        random.gauss(0, 1)
        np.random.randn()  # noqa: NPY002
    snapshot = snapshots.save(folder, trainer, origin, ALONE)
    expected = draw()
    assert draw() != expected
    snapshots.restore(snapshot, new_trainer(config), ALONE)
    assert draw() == expected


class WithGpu:
    """What the module takes for torch: the real one, with a GPU that is no more than a number."""

    def __init__(self, state: int) -> None:
        self.given: list[int] = []
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_rng_state=lambda: torch.tensor([state], dtype=torch.uint8),
            set_rng_state=lambda drawn: self.given.append(drawn.item()),
        )

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def test_snapshot_of_a_machine_without_a_gpu_is_restored_on_one_with_it(
    saved: list[Path], config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = WithGpu(state=1)
    monkeypatch.setattr(snapshots, "torch", machine)
    restored = new_trainer(config)
    snapshots.restore(saved[1], restored, ALONE)
    assert restored.step == 8
    assert machine.given == [], "its generator stays as it was seeded"


def test_snapshot_of_a_machine_with_a_gpu_is_restored_there_and_on_one_without(
    trainer: Trainer,
    folder: Path,
    config: RunConfig,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "torch", WithGpu(state=1))
        snapshot = snapshots.save(folder, trainer, origin, ALONE)
        machine = WithGpu(state=2)
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


def test_newest_snapshot_is_the_one_of_the_last_step(saved: list[Path], folder: Path) -> None:
    assert newest(folder) == (saved[1], [])


def test_unfinished_snapshot_is_passed_over_and_cleared_away(
    saved: list[Path], trainer: Trainer, folder: Path, origin: Origin
) -> None:
    # What a kill in the middle of a save leaves behind.
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
def test_flipped_bit_is_named_and_the_snapshot_before_is_used(
    saved: list[Path], folder: Path, name: str, share: float
) -> None:
    file = saved[1] / name
    flip(file, round(share * (len(file.read_bytes()) - 1)))
    assert newest(folder) == (
        saved[0],
        [f"{saved[1]}: damaged ({name} is not what it was); using the snapshot before it"],
    )


def test_flipped_bit_in_the_manifest_is_never_believed(saved: list[Path], folder: Path) -> None:
    manifest = saved[1] / "manifest.json"
    before = snapshots.manifest_of(saved[1])
    whole = manifest.read_bytes()
    outcomes = set()
    # A prime stride meets names, numbers and digests.
    for position in range(0, len(whole), 13):
        flip(manifest, position)
        found, said = newest(folder)
        if found == saved[1]:
            # White space between its parts, of which the JSON reads the same.
            assert snapshots.manifest_of(found) == before, position
            outcomes.add("did not matter")
        else:
            assert found == saved[0]
            assert len(said) == 1
            assert said[0].startswith(f"{saved[1]}: damaged (")
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
    said = f"{saved[1]}: damaged ({problem}); using the snapshot before it"
    assert newest(folder) == (saved[0], [said])


def test_what_killed_processes_left_is_dropped(saved: list[Path], folder: Path) -> None:
    # A kill between naming a snapshot and dropping the oldest leaves three of them.
    (folder / "step-00000006").mkdir()
    (folder / ".step-00000009.unfinished").mkdir()
    snapshots.drop_remains(folder, saved[1])
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000007", "step-00000008"]


def test_snapshots_before_a_damaged_one_are_kept(saved: list[Path], folder: Path) -> None:
    snapshots.drop_remains(folder, saved[0])
    assert snapshots.names(folder) == ["step-00000007", "step-00000008"]


def test_nothing_is_dropped_where_no_snapshot_is(folder: Path) -> None:
    snapshots.drop_remains(folder, None)
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"files": 3}', b"\xff"])
def test_manifest_that_is_none_is_noticed(saved: list[Path], folder: Path, content: bytes) -> None:
    (saved[1] / "manifest.json").write_bytes(content)
    found, said = newest(folder)
    assert found == saved[0]
    assert said[0].startswith(f"{saved[1]}: damaged (manifest.json")


def test_no_whole_snapshot_is_an_error(saved: list[Path], folder: Path) -> None:
    for snapshot in saved:
        flip(snapshot / "__0_0.distcp", 0)
    said: list[str] = []
    with pytest.raises(CheckpointError) as raised:
        snapshots.newest_whole(folder, say=said.append)
    assert str(raised.value) == (
        f"{folder}: no snapshot is whole; start a new run with another --run-id"
    )
    assert [line.split(":")[0] for line in said] == [str(saved[1]), str(saved[0])]


def test_damaged_snapshot_is_replaced_when_its_step_comes_again(
    saved: list[Path], trainer: Trainer, folder: Path, origin: Origin
) -> None:
    flip(saved[1] / "__0_0.distcp", 0)
    snapshots.save(folder, trainer, origin, ALONE)
    assert newest(folder) == (saved[1], [])


class Calls:
    """Pickled, it is an order to call `function` when it is read."""

    def __init__(self, function: Callable[[str], object], argument: str) -> None:
        self.function = function
        self.argument = argument

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self.function, (self.argument,)


def dotted_os_system(argument: str) -> bytes:
    """A pickle that reaches os.system through a module from which metadata may take a class.

    Protocol 4 lets a name have dots: `os.system` is looked up in that module, which imports os.
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


def order_of(kind: str, marker: Path) -> bytes:
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
    (saved[1] / ".metadata").write_bytes(order_of(kind, marker))
    with pytest.raises(CheckpointError) as raised:
        snapshots.restore(saved[1], new_trainer(config), ALONE)
    assert str(raised.value).startswith(f"{saved[1]}: cannot be read (")
    # Torch before 2.13 leaves out why it has none.
    reasons = (f"metadata that asks for {named} is refused", "(metadata is None)")
    assert any(reason in str(raised.value) for reason in reasons)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("kind", ["dotted_name", "eval", "os_system"])
def test_planted_code_would_run_elsewhere(tmp_path: Path, kind: str) -> None:
    # The control of the test above: its files do what they are said to do.
    marker = tmp_path / "m"
    pickle.loads(order_of(kind, marker))  # noqa: S301 - it is ours
    assert marker.exists()


def test_code_in_a_shard_is_refused_and_not_run(
    saved: list[Path], config: RunConfig, tmp_path: Path
) -> None:
    marker = tmp_path / "m"
    shard = saved[1] / "__0_0.distcp"
    content = shard.read_bytes()
    shard.write_bytes(order_of("os_system", marker).ljust(len(content), b"\0"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        snapshots.restore(saved[1], new_trainer(config), ALONE)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04N.", b"not a pickle"])
def test_metadata_that_is_none_is_told_in_one_line(
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
def test_model_of_another_size_is_told_in_one_line(
    saved: list[Path], config: RunConfig, change: dict[str, int], named: str
) -> None:
    other = config.model_copy(update={"model": config.model.model_copy(update=change)})
    trainer = loop.new_trainer(loop.new_model(LEARNER, other), other.train)
    with pytest.raises(CheckpointError) as raised:
        snapshots.restore(saved[1], trainer, ALONE)
    assert str(raised.value).startswith(f"{saved[1]}: cannot be read (")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_snapshot_that_cannot_be_written_names_the_one_that_is_left(
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
        f"{saved[1]} is whole; once that is mended, --resume goes on"
    )
    assert {file: file.read_bytes() for path in saved for file in path.iterdir()} == digests
    assert sorted(path.name for path in folder.iterdir()) == snapshots.names(folder)


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def no_space_through_torch(*_: object, **__: object) -> None:
    """Fail as torch's writer does where the disk fills up in the middle of a file."""
    try:
        no_space()
    finally:
        msg = "[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598"
        raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        pytest.param("training.pytorch.snapshots.save_shards", no_space_through_torch, id="shard"),
        # Of the manifest, the last file.
        pytest.param("gates.files._fsync_folder", no_space, id="manifest"),
    ],
)
def test_full_disk_is_named_wherever_it_fills_up(
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
    assert f"; {saved[1]} is whole; " in str(raised.value)
    assert sorted(path.name for path in folder.iterdir()) == snapshots.names(folder)


def test_snapshot_of_an_earlier_version_is_refused(saved: list[Path]) -> None:
    file = saved[1] / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["attempts"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"from another version of this project \('attempts'\)"
    ):
        snapshots.origin_of(saved[1], RunConfig)


def test_first_snapshot_that_cannot_be_written_says_that_there_is_none(
    trainer: Trainer, folder: Path, origin: Origin
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("mine")
    with pytest.raises(CheckpointError) as raised:
        snapshots.save(folder, trainer, origin, ALONE)
    assert "cannot be written (Not a directory); there is none before it; " in str(raised.value)
    assert folder.read_text() == "mine"


def test_manifest_is_json_that_other_programs_read(saved: list[Path]) -> None:
    assert json.loads((saved[1] / "manifest.json").read_text())["step"] == 8

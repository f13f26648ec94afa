import contextlib
import dataclasses
import hashlib
import math
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gates.errors import CheckpointError
from training import runs
from training.config import dump_tree
from training.pytorch import checkpoint as checkpoints
from training.pytorch import loop
from training.pytorch.checkpoint import Checkpoint

from toy.config import RunConfig
from toy.learner import LEARNER, METHOD


@pytest.fixture
def saved(config: RunConfig) -> Checkpoint[RunConfig]:
    weights = loop.new_model(LEARNER, config).state_dict()
    return Checkpoint(weights=dict(weights), config=config, data_digest="d" * 64, step=8)


@pytest.fixture
def file(saved: Checkpoint[RunConfig], tmp_path: Path) -> Path:
    file = tmp_path / "outputs" / "run" / "checkpoint.pt"
    checkpoints.save(saved, file)
    return file


def are_equal(one: Checkpoint[RunConfig], other: Checkpoint[RunConfig]) -> bool:
    return (
        (one.config, one.data_digest, one.step) == (other.config, other.data_digest, other.step)
        and one.weights.keys() == other.weights.keys()
        and all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())
    )


def error_of(file: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        METHOD.load(file)
    assert str(raised.value).startswith(f"{file}: ")
    return str(raised.value)


def test_checkpoint_of_an_older_version_loads_with_its_configuration_digest(
    saved: Checkpoint[RunConfig], tmp_path: Path
) -> None:
    # Its configuration had another key order, which affects the digest recorded in predictions.
    tree = dict(reversed(saved.config.model_dump().items()))
    document = {
        "format": "toy.checkpoint/1",
        "weights": saved.weights,
        "config": tree,
        "data_digest": saved.data_digest,
        "step": saved.step,
    }
    file = tmp_path / "older.pt"
    torch.save(document, file)
    read = METHOD.load(file)
    assert are_equal(read, saved)
    assert read.config_digest == hashlib.sha256(dump_tree(tree)).hexdigest()
    assert read.config_digest != saved.config_digest


class TouchesFile:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


def test_load_returns_what_was_saved(saved: Checkpoint[RunConfig], file: Path) -> None:
    assert are_equal(METHOD.load(file), saved)


def test_loaded_model_predicts_the_same(saved: Checkpoint[RunConfig], file: Path) -> None:
    images = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    saved.weights["head.weight"].normal_(generator=torch.Generator().manual_seed(0))
    checkpoints.save(saved, file)
    model = METHOD.model(METHOD.load(file))
    assert torch.equal(model(images), METHOD.model(saved)(images))
    assert not model.training


def test_save_replaces_an_earlier_checkpoint(saved: Checkpoint[RunConfig], file: Path) -> None:
    later = dataclasses.replace(saved, step=9)
    checkpoints.save(later, file)
    assert METHOD.load(file).step == 9
    assert list(file.parent.iterdir()) == [file]


def test_error_for_a_missing_checkpoint_suggests_training_one(tmp_path: Path) -> None:
    assert error_of(tmp_path / "absent.pt").endswith(
        "absent.pt: no such checkpoint; train one: python -m toy.train --config …"
    )


def test_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    assert "is a folder; name the checkpoint in it" in error_of(tmp_path)


def test_truncated_checkpoint_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 1, 2, 4, 100, len(whole) // 2, len(whole) - 22, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert error_of(file), length


def test_flipped_bit_is_refused_or_changes_nothing(
    saved: Checkpoint[RunConfig], file: Path
) -> None:
    whole = file.read_bytes()
    outcomes = set()
    # A prime stride hits headers, names, the pickle, weights and padding.
    for position in range(0, len(whole), 53):
        damaged = bytearray(whole)
        damaged[position] ^= 0x20
        file.write_bytes(damaged)
        try:
            loaded = METHOD.load(file)
        except CheckpointError:
            outcomes.add("refused")
        else:
            assert are_equal(loaded, saved), position
            outcomes.add("did not matter")
    assert "refused" in outcomes


def test_flipped_bit_in_a_weight_is_detected(saved: Checkpoint[RunConfig], file: Path) -> None:
    whole = file.read_bytes()
    weight = saved.weights["stem.weight"].numpy().tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(weight) + 3] ^= 0x80
    file.write_bytes(damaged)
    assert "damaged" in error_of(file)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_raw_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps(TouchesFile(marker), protocol=protocol))
    error_of(file)
    assert not marker.exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_inside_a_torch_file_is_not_run(tmp_path: Path, *, is_zip: bool) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil.pt"
    document = {"format": "training.checkpoint/1", "weights": TouchesFile(marker)}
    torch.save(document, file, _use_new_zipfile_serialization=is_zip)
    error_of(file)
    assert not marker.exists()


def test_planted_code_would_run_with_plain_pickle(tmp_path: Path) -> None:
    # Control for the two tests above: their payload does run when unpickled.
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(TouchesFile(marker)))  # noqa: S301 - our own payload
    assert marker.exists()


def test_refusal_of_code_explains_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "evil.pt"
    torch.save({"weights": TouchesFile(tmp_path / "marker")}, file)
    assert "loading it could run code" in error_of(file)


def test_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme", "hello")
    error_of(file)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(torch.zeros(2), id="tensor"),
        pytest.param([1, 2], id="list"),
        pytest.param({"model": torch.zeros(2)}, id="plain_state_dict"),
        pytest.param({"format": "training.checkpoint/0"}, id="another_version"),
    ],
)
def test_other_torch_file_is_not_a_checkpoint(tmp_path: Path, document: object) -> None:
    file = tmp_path / "other.pt"
    torch.save(document, file)
    assert error_of(file) == (
        f"{file}: not a checkpoint of this project (expected the format training.checkpoint/1); "
        "name one that this project trained"
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"weights": {}}, id="no_weights"),
        pytest.param({"weights": []}, id="weights_are_a_list"),
        pytest.param({"weights": {"head.bias": 1}}, id="weights_are_numbers"),
        pytest.param({"weights": {"head.bias": torch.zeros(3)}}, id="weights_of_another_shape"),
        pytest.param({"config": None}, id="no_config"),
        pytest.param({"config": {"seed": -1}}, id="config_not_allowed"),
        pytest.param({"data_digest": None}, id="no_data_digest"),
        pytest.param({"step": "eight"}, id="step_is_a_word"),
    ],
)
def test_inconsistent_contents_are_refused(
    saved: Checkpoint[RunConfig], file: Path, changes: dict[str, Any]
) -> None:
    torch.save(document_of(saved) | changes, file)
    assert "its contents are inconsistent" in error_of(file)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weight_that_is_not_finite_is_refused(
    saved: Checkpoint[RunConfig], file: Path, value: float
) -> None:
    saved.weights["head.bias"][3] = value
    checkpoints.save(saved, file)
    assert "its contents are inconsistent (head.bias is not finite)" in error_of(file)


@pytest.mark.parametrize("name", ["weights", "config", "data_digest", "step"])
def test_missing_key_is_named(saved: Checkpoint[RunConfig], file: Path, name: str) -> None:
    document = document_of(saved)
    del document[name]
    torch.save(document, file)
    assert name in error_of(file)


def test_failed_save_keeps_the_earlier_checkpoint(saved: Checkpoint[RunConfig], file: Path) -> None:
    before = file.read_bytes()
    unwritable: Any = {"head.bias": lambda: None}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoints.save(dataclasses.replace(saved, weights=unwritable), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit files to `size` bytes; writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_reported_wherever_writing_fails(
    saved: Checkpoint[RunConfig], file: Path
) -> None:
    before = file.read_bytes()
    for size in range(0, len(before), len(before) // 50):
        with file_size_limit(size), pytest.raises(CheckpointError) as raised:
            checkpoints.save(saved, file)
        assert str(raised.value).startswith(f"{file}: cannot be written (File too large); "), size
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]


def test_latest_points_to_the_checkpoint(file: Path) -> None:
    outputs = file.parent.parent
    runs.point_latest(outputs, file)
    assert (outputs / "latest.pt").resolve() == file.resolve()


def test_latest_moves_to_a_newer_checkpoint(saved: Checkpoint[RunConfig], file: Path) -> None:
    outputs = file.parent.parent
    newer = outputs / "newer" / "checkpoint.pt"
    checkpoints.save(dataclasses.replace(saved, step=9), newer)
    runs.point_latest(outputs, file)
    runs.point_latest(outputs, newer)
    assert METHOD.load(outputs / "latest.pt").step == 9
    assert sorted(path.name for path in outputs.iterdir()) == ["latest.pt", "newer", "run"]


def test_latest_survives_moving_the_outputs(saved: Checkpoint[RunConfig], file: Path) -> None:
    outputs = file.parent.parent
    runs.point_latest(outputs, file)
    moved = outputs.rename(outputs.with_name("moved"))
    assert are_equal(METHOD.load(moved / "latest.pt"), saved)


def test_link_left_by_a_killed_process_is_replaced(file: Path) -> None:
    outputs = file.parent.parent
    (outputs / ".latest.pt.run").symlink_to("gone")
    runs.point_latest(outputs, file)
    assert sorted(path.name for path in outputs.iterdir()) == ["latest.pt", "run"]


def document_of(saved: Checkpoint[RunConfig]) -> dict[str, Any]:
    """Return the contents of a checkpoint file."""
    return {
        "format": "training.checkpoint/1",
        "weights": saved.weights,
        "config": saved.config.model_dump(),
        "data_digest": saved.data_digest,
        "step": saved.step,
    }

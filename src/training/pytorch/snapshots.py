"""Snapshots, from which a run can continue exactly where it was, on any number of processes.

A snapshot is a folder, such as `step-00000120`, with the shards that PyTorch's Distributed
Checkpoint writes (model, optimiser, random-number generators, and the best epoch if the run selects
one) and a manifest with the step, the configuration and the SHA-256 of every file. The learning
rate and the position in the data are functions of the step. The folder gets its name only when it
is complete, so a kill never leaves a partial snapshot under that name.
"""

import contextlib
import hashlib
import json
import pickle
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from gates.errors import CheckpointError, ConfigError, GateInputError, describe, underlying
from gates.evidence.provenance import Attempt
from gates.files import sha256, write_text
from training.config import RunConfig, validate
from training.pytorch.loop import Trainer
from training.pytorch.processes import Processes

_MANIFEST = "manifest.json"
_KEPT = 2  # the newest, and a fallback


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that a snapshot belongs to.

    Args:
        config: its configuration.
        data_digest: SHA-256 of its training data.
        attempts: the attempts at the run so far.
    """

    config: RunConfig
    data_digest: str
    attempts: Sequence[Attempt] = ()


def save(folder: Path, trainer: Trainer, origin: Origin, processes: Processes) -> Path:
    """Write a snapshot of `trainer` into `folder` and delete all but the newest two.

    Every process must call this function with the same shared folder.

    Raises:
        CheckpointError: the snapshot cannot be written; earlier snapshots are untouched.
    """
    target = folder / f"step-{trainer.step:08d}"
    unfinished = folder / f".{target.name}.unfinished"
    try:
        processes.on_first_process(lambda: _recreate(unfinished))
        with _quiet():
            save_shards(
                _state_of(trainer),
                storage_writer=FileSystemWriter(unfinished, thread_count=1),
                no_dist=processes.count == 1,
            )
        processes.on_first_process(lambda: _finish(unfinished, target, trainer.step, origin))
    except (OSError, CheckpointException, RuntimeError, GateInputError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        before = names(folder)
        kept = f"{folder / before[-1]} is intact" if before else "there is no earlier snapshot"
        msg = f"{target}: cannot be written ({_root_cause(error)}); {kept}; fix the cause, then "
        msg += "--resume"
        raise CheckpointError(msg) from error
    return target


def names(folder: Path) -> list[str]:
    """Return the names of the snapshots in `folder`, oldest first."""
    return sorted(snapshot.name for snapshot in folder.glob("step-*"))


def newest_intact(folder: Path, *, say: Callable[[str], None]) -> Path | None:
    """Return the newest intact snapshot in `folder`; report damaged ones with `say`.

    Return None if there is no snapshot yet.

    Raises:
        CheckpointError: there are snapshots, but none of them is intact.
    """
    found = names(folder)
    for name in reversed(found):
        problem = _find_damage(folder / name)
        if problem is None:
            return folder / name
        say(f"{folder / name}: damaged ({problem}); using the snapshot before it")
    if found:
        msg = f"{folder}: no snapshot is intact; start a new run with another --run-id"
        raise CheckpointError(msg)
    return None


def remove_leftovers(folder: Path, newest: Path | None) -> None:
    """Delete unfinished snapshots, and all snapshots older than the one before `newest`."""
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    before = [name for name in names(folder) if newest is not None and name < newest.name]
    for name in before[: 1 - _KEPT]:
        shutil.rmtree(folder / name, ignore_errors=True)


def manifest_of(snapshot: Path) -> dict[str, Any]:
    """Return the manifest of `snapshot`: step, config, data_digest, attempts and files."""
    manifest: dict[str, Any] = json.loads((snapshot / _MANIFEST).read_text(encoding="utf-8"))
    return manifest


def origin_of(snapshot: Path, kind: type[RunConfig]) -> Origin:
    """Return the run this snapshot belongs to; `kind` is the class of its configuration.

    Raises:
        CheckpointError: another version of this code wrote the manifest.
    """
    manifest = manifest_of(snapshot)
    try:
        return Origin(
            config=validate(kind, manifest["config"], where=str(snapshot)),
            data_digest=manifest["data_digest"],
            attempts=[Attempt.of(document) for document in manifest["attempts"]],
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        msg = f"{snapshot}: written by another version of this project ({describe(error)}); "
        msg += "start a new run"
        raise CheckpointError(msg) from error


def restore(snapshot: Path, trainer: Trainer, processes: Processes) -> None:
    """Restore `trainer` and the random-number generators from `snapshot`.

    Raises:
        CheckpointError: the snapshot cannot be read, or does not fit the model.
    """
    state = _state_of(trainer)
    if not _has_gpu_generator(snapshot):
        # Made without a GPU: this GPU's generator keeps its seed.
        state["generators"].pop("cuda", None)
    try:
        with _quiet():
            load_shards(state, storage_reader=_PlainReader(snapshot), no_dist=processes.count == 1)
    except (OSError, CheckpointException, RuntimeError, pickle.UnpicklingError) as error:
        msg = f"{snapshot}: cannot be read ({_root_cause(error)}); start a new run"
        raise CheckpointError(msg) from error
    optimizer = get_optimizer_state_dict(trainer.model, trainer.optimizer)
    optimizer["state"] = state["optimizer"]
    set_model_state_dict(trainer.model, state["model"])
    set_optimizer_state_dict(trainer.model, trainer.optimizer, optimizer)
    if trainer.selection is not None:
        trainer.selection.restore(state["selection"])
    _set_generators(state["generators"])
    trainer.step = int(state["step"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warning that it assumes a single process, which is true here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _state_of(trainer: Trainer) -> dict[str, Any]:
    """Return the state as tensors only, so that loading it cannot run code."""
    selection = trainer.selection
    return {
        **({} if selection is None else {"selection": selection.state()}),
        "model": get_model_state_dict(trainer.model),
        "optimizer": get_optimizer_state_dict(trainer.model, trainer.optimizer)["state"],
        "generators": _generators(),
        "step": torch.tensor(trainer.step),
    }


def _generators() -> dict[str, Tensor]:
    """Return the state of every random-number generator that training code may use."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global generator
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_position": torch.tensor([int(position), int(has_gauss)]),
        "numpy_gauss": torch.tensor(float(cached), dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _has_gpu_generator(snapshot: Path) -> bool:
    try:
        return "generators.cuda" in _PlainReader(snapshot).read_metadata().state_dict_metadata
    except Exception:  # noqa: BLE001 - damaged: loading reports the cause
        return True


def _set_generators(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    gauss = state["python_gauss"].item()
    words = tuple(state["python"].tolist())
    random.setstate((3, words, None if np.isnan(gauss) else gauss))
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    cached = state["numpy_gauss"].item()
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))  # noqa: NPY002
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _recreate(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _finish(unfinished: Path, target: Path, step: int, origin: Origin) -> None:
    """Write the manifest, give the snapshot its final name and delete old snapshots."""
    files = {file.name: sha256(file) for file in sorted(unfinished.iterdir())}
    contents = {
        "step": step,
        "config": origin.config.model_dump(),
        "data_digest": origin.data_digest,
        "attempts": [attempt.document() for attempt in origin.attempts],
        "files": files,
    }
    manifest = {**contents, "digest": _digest_of(contents)}
    write_text(unfinished / _MANIFEST, json.dumps(manifest, indent=2))
    shutil.rmtree(target, ignore_errors=True)  # may be a damaged snapshot that was skipped
    unfinished.rename(target)
    for name in names(target.parent)[:-_KEPT]:
        shutil.rmtree(target.parent / name, ignore_errors=True)


def _digest_of(contents: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's contents, without the digest itself."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _find_damage(snapshot: Path) -> str | None:
    """Return what is wrong with the files of `snapshot`, or None."""
    try:
        contents = manifest_of(snapshot)
        if contents.pop("digest") != _digest_of(contents):
            return f"{_MANIFEST} does not match its digest"
        files = dict(contents["files"])
    except Exception as error:  # noqa: BLE001 - a damaged manifest can raise anything
        return f"{_MANIFEST}: {type(error).__name__}"
    for name, digest in files.items():
        file = snapshot / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256(file) != digest:
            return f"{name} does not match its digest"
    return None


def _root_cause(error: BaseException) -> str:
    """Return the file-system error inside the exceptions that torch wraps around it."""
    if isinstance(error, CheckpointException):
        for failure in error.failures.values():
            return _root_cause(failure[0])
    return underlying(error)


# The classes in a snapshot's metadata. Not whole modules: a module also exposes its imports.
_METADATA_CLASSES = frozenset(
    [
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),  # its module in Python 3.13
        ("torch", "Size"),
        *(("torch", name) for name in ("bfloat16", "float32", "float64", "int64", "uint8")),
    ]
)


class _PlainUnpickler(pickle.Unpickler):
    """Loads only the classes that a snapshot's metadata needs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _METADATA_CLASSES:
            msg = f"metadata refers to {module}.{name}, which is not allowed"
            raise pickle.UnpicklingError(msg)
        return super().find_class(module, name)


class _PlainReader(FileSystemReader):
    """PyTorch's reader, except that the metadata, a pickle, cannot run code when it is loaded."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as stream:
            metadata: Metadata = _PlainUnpickler(stream).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

"""Checkpoints: written atomically, and read without running any code they contain."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from gates.errors import CheckpointError, ConfigError, GateInputError, underlying
from gates.files import atomic_write
from training.config import Config, dump_tree, validate

_FORMAT = "training.checkpoint/1"
# Projects wrote these formats before they shared this library; the contents are the same.
_OLDER = re.compile(r"\w+\.checkpoint/1")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[Config]):
    """A trained model, with everything needed to use it and to trace where it came from.

    Args:
        weights: the model's parameters by name.
        config: the configuration of the run.
        data_digest: SHA-256 of the training data.
        step: number of optimiser steps the model was trained for.
        tree: the configuration as read from the file, which may lack keys added since; None if
            the checkpoint was not read from a file.
    """

    weights: dict[str, Tensor]
    config: Config
    data_digest: str
    step: int
    tree: Mapping[str, Any] | None = None

    def model(self, build_model: Callable[[Config], nn.Module]) -> nn.Module:
        """Return the model on the CPU, ready to predict.

        Args:
            build_model: returns an untrained model for a configuration.
        """
        model = build_model(self.config)
        model.load_state_dict(self.weights)
        return model.eval()

    @property
    def config_digest(self) -> str:
        """SHA-256 of the configuration as the run wrote it."""
        return hashlib.sha256(dump_tree(self.tree or self.config.model_dump())).hexdigest()


def save(checkpoint: Checkpoint[Config], file: Path) -> None:
    """Write `checkpoint` to `file` atomically.

    Raises:
        CheckpointError: the file cannot be written.
    """
    document = {
        "weights": checkpoint.weights,
        "config": checkpoint.config.model_dump(),
        "data_digest": checkpoint.data_digest,
        "step": checkpoint.step,
        "format": _FORMAT,
    }
    try:
        with atomic_write(file) as stream:
            torch.save(document, stream)
    except (GateInputError, RuntimeError) as error:  # a full disk can raise either of them
        msg = f"{file}: cannot be written ({underlying(error)}); fix the cause, and --resume "
        msg += "continues from the newest snapshot"
        raise CheckpointError(msg) from error


def load(
    file: Path, kind: type[Config], build_model: Callable[[Config], nn.Module]
) -> Checkpoint[Config]:
    """Return the checkpoint in `file`.

    Args:
        file: the checkpoint.
        kind: the project's configuration class.
        build_model: returns an untrained model for a configuration.

    A checkpoint is a pickle, which can run any code when it is loaded; this function loads
    tensors and plain values only.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint, or does not fit the
            model that its configuration describes.
    """
    try:
        _check_sums(file)
        document = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        package = kind.__module__.partition(".")[0]
        msg = f"{file}: no such checkpoint; train one: python -m {package}.train --config …"
        raise CheckpointError(msg) from error
    except pickle.UnpicklingError as error:
        msg = f"{file}: refused: it contains more than tensors and plain values, so loading it "
        msg += "could run code; use a checkpoint that this project's training wrote"
        raise CheckpointError(msg) from error
    except IsADirectoryError as error:
        msg = f"{file}: is a folder; name the checkpoint in it, such as {file / 'checkpoint.pt'}"
        raise CheckpointError(msg) from error
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror or error})"
        raise CheckpointError(msg) from error
    except Exception as error:  # a damaged pickle can raise anything
        if not _begins_as_zip(file):
            msg = f"{file}: is not a checkpoint; name one, such as outputs/latest.pt"
            raise CheckpointError(msg) from error
        msg = f"{file}: damaged, truncated or not a checkpoint; use an earlier one or train again"
        raise CheckpointError(msg) from error
    return _parse(document, file, kind, build_model)


def _parse(
    document: Any, file: Path, kind: type[Config], build_model: Callable[[Config], nn.Module]
) -> Checkpoint[Config]:
    if not isinstance(document, dict) or not _is_known(document.get("format")):
        msg = f"{file}: not a checkpoint of this project (expected the format {_FORMAT}); name one "
        msg += "that this project trained"
        raise CheckpointError(msg)
    try:
        _check_types(document)
        checkpoint = Checkpoint(
            weights=document["weights"],
            config=validate(kind, document["config"], where=str(file)),
            data_digest=document["data_digest"],
            step=document["step"],
            tree=document["config"],
        )
        _check_finite(checkpoint.model(build_model))
    except (ConfigError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        msg = f"{file}: its contents are inconsistent ({error}); train again"
        raise CheckpointError(msg) from error
    return checkpoint


def _is_known(name: object) -> bool:
    return isinstance(name, str) and (name == _FORMAT or _OLDER.fullmatch(name) is not None)


def _check_finite(model: nn.Module) -> None:
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            msg = f"{name} is not finite"
            raise ValueError(msg)


def _check_sums(file: Path) -> None:
    """Raise unless `file` is a zip with correct checksums, which torch writes but never checks."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged:
        msg = f"{damaged} does not match its checksum"
        raise zipfile.BadZipFile(msg)


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _check_types(document: dict[str, Any]) -> None:
    for name, kind in (("data_digest", str), ("step", int)):
        if not isinstance(document[name], kind):
            msg = f"{name} is {document[name]!r}"
            raise TypeError(msg)

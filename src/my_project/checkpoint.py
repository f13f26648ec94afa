"""Checkpoints: whole or absent, and read without running any code that they contain."""

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gates.errors import CheckpointError, ConfigError, GateInputError, underlying
from gates.files import atomic_write
from my_project.config import RunConfig, validate
from my_project.model import VisionTransformer

_FORMAT = "my_project.checkpoint/1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model with what it takes to use and to trace it.

    Args:
        weights: the model's parameters by name.
        config: the configuration of the run.
        data_digest: SHA-256 of the data that it learned from.
        step: optimiser steps that it was trained for.
    """

    weights: dict[str, Tensor]
    config: RunConfig
    data_digest: str
    step: int

    def model(self) -> VisionTransformer:
        """Return the model on the CPU, ready to predict."""
        model = VisionTransformer(self.config.model)
        model.load_state_dict(self.weights)
        return model.eval()


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write `checkpoint` to `file`, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    document = {**asdict(checkpoint), "format": _FORMAT, "config": checkpoint.config.model_dump()}
    try:
        with atomic_write(file) as stream:
            torch.save(document, stream)
    except (GateInputError, RuntimeError) as error:  # a full disk becomes either of them
        msg = f"{file}: cannot be written ({underlying(error)}); once that is mended, --resume "
        msg += "goes on from the newest snapshot"
        raise CheckpointError(msg) from error


def load(file: Path) -> Checkpoint:
    """Return the checkpoint in `file`.

    A checkpoint is a pickle, which can run any code when it is read; this reads tensors and
    plain values only.

    Raises:
        CheckpointError: the file is missing, damaged, holds anything else, or does not fit
            the model that its configuration describes.
    """
    try:
        _check_sums(file)
        document = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        msg = f"{file}: no such checkpoint; train one: python -m my_project.train --config …"
        raise CheckpointError(msg) from error
    except pickle.UnpicklingError as error:
        msg = f"{file}: refused, as it holds more than tensors and plain values and reading it "
        msg += "could run code; use a checkpoint that my_project.train wrote"
        raise CheckpointError(msg) from error
    except IsADirectoryError as error:
        msg = f"{file}: is a folder; name the checkpoint in it, such as {file / 'checkpoint.pt'}"
        raise CheckpointError(msg) from error
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror or error})"
        raise CheckpointError(msg) from error
    except Exception as error:  # a damaged pickle can ask for anything
        if not _begins_as_zip(file):
            msg = f"{file}: is no checkpoint; name one, such as outputs/latest.pt"
            raise CheckpointError(msg) from error
        msg = f"{file}: damaged, cut off or no checkpoint; take an earlier one or train again"
        raise CheckpointError(msg) from error
    return _parse(document, file)


def _parse(document: Any, file: Path) -> Checkpoint:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        msg = f"{file}: not a checkpoint of this project (expected the format {_FORMAT})"
        raise CheckpointError(msg)
    try:
        _check_types(document)
        checkpoint = Checkpoint(
            weights=document["weights"],
            config=validate(document["config"], where=str(file)),
            data_digest=document["data_digest"],
            step=document["step"],
        )
        _check_finite(checkpoint.model())
    except (ConfigError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        msg = f"{file}: its contents do not fit together ({error}); train again"
        raise CheckpointError(msg) from error
    return checkpoint


def _check_finite(model: VisionTransformer) -> None:
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            msg = f"{name} is not finite"
            raise ValueError(msg)


def _check_sums(file: Path) -> None:
    """Raise unless `file` is a zip with the checksums it names: torch writes, but ignores, them."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged:
        msg = f"{damaged} does not have its checksum"
        raise zipfile.BadZipFile(msg)


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _check_types(document: dict[str, Any]) -> None:
    for name, kind in (("data_digest", str), ("step", int)):
        if not isinstance(document[name], kind):
            msg = f"{name} is {document[name]!r}"
            raise TypeError(msg)


def point_latest(outputs: Path, checkpoint: Path) -> None:
    """Make `outputs/latest.pt` a link to `checkpoint`, never missing in between."""
    link = outputs / "latest.pt"
    new = outputs / f".latest.pt.{checkpoint.parent.name}"
    new.unlink(missing_ok=True)
    new.symlink_to(checkpoint.relative_to(outputs))
    new.replace(link)

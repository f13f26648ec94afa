"""Scores checkpoints on held-out examples, and has the gate judge the scores."""

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
import numpy as np
import torch
from torch import nn

from gates import evaluation as gate
from gates.errors import GateError, GateInputError
from gates.files import sha256
from gates.predictions import Predictions, read_predictions, write_predictions
from gates.verdict import Verdict
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data
from my_project.data import Examples
from my_project.model import VisionTransformer
from my_project.processes import Processes

_BATCH = 1024  # examples in one forward pass


def accuracy(model: nn.Module, examples: Examples, processes: Processes | None = None) -> float:
    """Return the share of `examples` that `model` predicts right.

    Args:
        model: gives logits (batch, classes) for images.
        examples: all of them.
        processes: those among which they are shared; each calls this. This one alone if not given.
    """
    alone = Processes(rank=0, count=1, device=next(model.parameters()).device)
    processes = processes or alone
    share = range(len(examples))[processes.rank :: processes.count]
    longest = math.ceil(len(examples) / processes.count)
    # As many forward passes everywhere: a sharded model needs every process for each.
    parts = torch.tensor(share, dtype=torch.int64).tensor_split(math.ceil(longest / _BATCH))
    was_training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=processes.device)
    with torch.no_grad():
        for part in parts:
            predicted = model(examples.images[part].to(processes.device)).argmax(dim=1)
            right += (predicted == examples.labels[part].to(processes.device)).sum()
    model.train(was_training)
    return processes.sum(right).item() / len(examples)


@torch.inference_mode()
def probabilities(model: VisionTransformer, examples: Examples) -> torch.Tensor:
    """Return class probabilities (n_examples, classes), float64, on the CPU."""
    device = next(model.parameters()).device
    logits = [model(images.to(device)).double().cpu() for images in examples.images.split(_BATCH)]
    return torch.cat(logits).softmax(dim=1)


def predict(file: Path, examples: Examples) -> Predictions:
    """Return what the checkpoint in `file` predicts for `examples`.

    Raises:
        CheckpointError: the file is not a checkpoint that can be read.
    """
    checkpoint = checkpoints.load(file)
    if checkpoint.config.data.source != "synthetic":
        data.check_fits(checkpoint.config.model, where=str(file))
    scores = probabilities(checkpoint.model(), examples).numpy()
    labels = examples.labels.numpy()
    return Predictions(
        ids=examples.ids,
        labels=labels,
        predictions=scores.argmax(axis=1).astype(np.int64),
        probabilities=scores,
        subgroups={"digit": labels.astype(np.str_), "thickness": examples.thicknesses},
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
    )


def held_out_examples(checkpoint: Path, config: Path | None = None) -> Examples:
    """Return the test split that `checkpoint` is scored on.

    Args:
        checkpoint: names the data in its own configuration.
        config: a configuration that names the data instead.
    """
    run = configs.load(config) if config else checkpoints.load(checkpoint).config
    return data.examples_of(run, "test", where=str(config or checkpoint))


def compare(
    checkpoint: Path, baseline: str, *, margin: float, examples: Examples, written_to: Path
) -> Verdict:
    """Judge `checkpoint` against `baseline` and write its predictions to `written_to`.

    Args:
        checkpoint: the candidate.
        baseline: path or fsspec URI of a checkpoint or a `.parquet` of predictions.
        margin: accuracy that may be lost, a fraction.
        examples: what both are scored on.
        written_to: where the candidate's predictions go.

    Raises:
        GateError: one of them cannot be read, or they cannot be compared.
    """
    gate.check_margin(margin)
    candidate = predict(checkpoint, examples)
    with _local_copy(baseline) as file:
        is_predictions = file.suffix == ".parquet"
        reference = read_predictions(file) if is_predictions else predict(file, examples)
    verdict = gate.compare(candidate, reference, margin=margin)
    write_predictions(candidate, written_to)
    return verdict


def accept_without_baseline(
    checkpoint: Path, *, why: str, examples: Examples, written_to: Path
) -> Verdict:
    """Score a first release and write its predictions to `written_to`."""
    candidate = predict(checkpoint, examples)
    verdict = gate.accept_without_baseline(candidate, why=why)
    write_predictions(candidate, written_to)
    return verdict


@contextlib.contextmanager
def _local_copy(uri: str) -> Iterator[Path]:
    """Give the file at `uri` as a local one, for as long as the block runs.

    Raises:
        GateInputError: it cannot be read. Never taken for "there is no baseline".
    """
    if not uri.strip():
        msg = '--baseline: is empty; give a path or an address, or --no-baseline "why"'
        raise GateInputError(msg)
    if ":/" not in uri:
        if not Path(uri).is_file():
            msg = f'{uri}: no such baseline; for a first release say --no-baseline "why"'
            raise GateInputError(msg)
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        # Without the query of a signed address: the ending says what the file holds.
        file = Path(folder) / PurePosixPath(uri.partition("?")[0]).name
        try:
            with fsspec.open(uri) as source, file.open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception as error:  # each file system of fsspec has errors of its own
            msg = f"{uri}: the baseline cannot be read ({str(error) or type(error).__name__}); "
            msg += 'for a first release say --no-baseline "why"'
            raise GateInputError(msg) from error
        try:
            yield file
        except GateError as error:
            # The copy's name says nothing, and it is gone when the message is read.
            raise type(error)(str(error).replace(str(file), uri)) from error

"""Scores checkpoints on held-out examples, and has the gate judge the scores."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gates.errors import AnswerError, CheckpointError, GateInputError
from gates.evaluation import answers
from gates.evaluation import comparison as gate
from gates.evaluation.policy import Policy
from gates.evaluation.predictions import Predictions, open_predictions, write_predictions
from gates.files import sha256
from gates.verdicts.verdict import Verdict
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data
from my_project.config import ModelConfig, RunConfig
from my_project.data import Examples
from my_project.model import VisionTransformer
from my_project.processes import Processes

_BATCH = 1024  # examples in one forward pass
_TOLERANCE = 1e-3  # of probabilities: another processor rounds otherwise


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
def probabilities(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities (n_examples, classes), float64, on the CPU."""
    device = next(model.parameters()).device
    logits = [model(batch.to(device)).double().cpu() for batch in images.split(_BATCH)]
    return torch.cat(logits).softmax(dim=1)


def predict(file: Path, examples: Examples) -> Predictions:
    """Return what the checkpoint in `file` predicts for `examples`.

    Raises:
        CheckpointError: the file is not a checkpoint that can be read, or its model is for other
            images or classes.
    """
    checkpoint = checkpoints.load(file)
    _check_fits(checkpoint.config.model, examples, file)
    scores = probabilities(checkpoint.model(), examples.images).numpy()
    labels = examples.labels.numpy()
    return Predictions(
        ids=examples.ids,
        labels=labels,
        predictions=scores.argmax(axis=1).astype(np.int64),
        probabilities=scores,
        subgroups={"digit": labels.astype(np.str_), "thickness": examples.thicknesses},
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
        config_digest=hashlib.sha256(configs.dump(checkpoint.config)).hexdigest(),
    )


def _check_fits(model: ModelConfig, examples: Examples, file: Path) -> None:
    takes = (model.channels, model.image_size, model.image_size)
    found = tuple(examples.images.shape[1:])
    if takes != found or int(examples.labels.max()) >= model.classes:
        msg = f"{file}: its model sorts images of {_product(takes)} into {model.classes} classes; "
        msg += f"the data has images of {_product(found)} and labels to {examples.labels.max()}; "
        msg += "name the data that it is for with --config"
        raise CheckpointError(msg)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def smoke(folder: Path) -> None:
    """Load a registered model and let it answer: it must predict what its predictions say.

    All of the held-out data is compared, the labels too: a verdict is no better than the
    predictions that it rests on.

    Args:
        folder: holds its `checkpoint.pt` and `predictions.parquet`.

    Raises:
        AnswerError: the model answers otherwise, or the predictions are not of this data.
        CheckpointError: it cannot be loaded.
        GateInputError: the data on which it was judged is not here.
    """
    checkpoint = folder / "checkpoint.pt"
    recorded = open_predictions(folder / "predictions.parquet")
    examples = held_out_examples(checkpoint)
    if examples.data_digest != recorded.digests["data"]:
        msg = f"it was judged on the data {recorded.digests['data'][:12]}, and {configs.PROJECT} "
        msg += f"names {examples.data_digest[:12]}"
        raise GateInputError(msg)
    problem = answers.difference(recorded, predict(checkpoint, examples), tolerance=_TOLERANCE)
    if problem:
        raise AnswerError(problem)


def held_out_examples(checkpoint: Path, config: Path | None = None) -> Examples:
    """Return the test split that `checkpoint` is scored on.

    Args:
        checkpoint: the model.
        config: says where the data is; None for the project's configuration.

    Raises:
        GateError: the data cannot be read, or no configuration is named and the model was trained
            on other data than the project's.
    """
    run = _config_of(checkpoint, config)
    return data.examples_of(run, "test", where=str(config or configs.PROJECT))


def data_files(checkpoint: Path, config: Path | None = None) -> list[Path]:
    """Return the local files of the data that `checkpoint` is scored on, as `held_out_examples`."""
    return data.files_of(_config_of(checkpoint, config).data)


def _config_of(checkpoint: Path, config: Path | None) -> RunConfig:
    if config is not None:
        return configs.load(config)
    trained_on = checkpoints.load(checkpoint).config.data.source
    project = configs.load(configs.PROJECT)
    if trained_on != project.data.source:
        msg = f"{checkpoint}: was trained on {trained_on}, and {configs.PROJECT} names "
        msg += f"{project.data.source}; say with --config where the data to score it on is"
        raise GateInputError(msg)
    return project


def compare(
    candidate: Path,
    baseline: Path,
    policy: Policy,
    *,
    name: str,
    examples: Examples,
    allow_same_model: bool = False,
) -> Verdict:
    """Judge the predictions in `candidate` against `baseline`.

    Args:
        candidate: predictions of the model that may be promoted.
        baseline: the model in production: its checkpoint, which is then scored, or its
            predictions. The scores are written beside the candidate's, so that the verdict can
            be reached again.
        policy: every limit.
        name: what errors call the baseline.
        examples: what the candidate was scored on.
        allow_same_model: whether both may be one checkpoint.

    Raises:
        GateError: the baseline cannot be read, or the two cannot be compared.
    """
    reference = baseline
    if not _is_parquet(baseline):
        reference = baseline_predictions(candidate)
        write_predictions(predict(baseline, examples), reference)
    ours, theirs = open_predictions(candidate), open_predictions(reference, name=name)
    return gate.compare(ours, theirs, policy, allow_same_model=allow_same_model)


def baseline_predictions(candidate: Path) -> Path:
    """Return where the predictions of a baseline go, beside those of the candidate."""
    return candidate.with_name(f"baseline_{candidate.name}")


def _is_parquet(file: Path) -> bool:
    """Whether `file` is one of predictions, by its name or, as an address may have none, within."""
    with file.open("rb") as stream:
        return file.suffix == ".parquet" or stream.read(4) == b"PAR1"


def accept_without_baseline(candidate: Path, policy: Policy, *, why: str) -> Verdict:
    """Judge the predictions in `candidate` as those of a first release."""
    return gate.accept_without_baseline(open_predictions(candidate), policy, why=why)

"""Predictions of a checkpoint for held-out images."""

from pathlib import Path

import numpy as np

from gates.errors import CheckpointError
from gates.evaluation.predictions import Predictions
from gates.files import sha256
from training.pytorch.outputs import outputs

from my_project.config import ModelConfig
from my_project.data import Examples
from my_project.learner import METHOD


def predict(file: Path, examples: Examples) -> Predictions:
    """Return the predictions of the checkpoint in `file` for `examples`.

    Raises:
        CheckpointError: the file is not a readable checkpoint, or its model is for other images or
            classes.
    """
    checkpoint = METHOD.load(file)
    _check_fits(checkpoint.config.model, examples, file)
    scores = outputs(METHOD.model(checkpoint), examples.images).softmax(dim=1).numpy()
    labels = examples.labels.numpy()
    return Predictions(
        ids=examples.ids,
        labels=labels,
        predictions=scores.argmax(axis=1).astype(np.int64),
        probabilities=scores,
        subgroups={"digit": labels.astype(np.str_), "thickness": examples.thicknesses},
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
        config_digest=checkpoint.config_digest,
    )


def _check_fits(model: ModelConfig, examples: Examples, file: Path) -> None:
    takes = (model.channels, model.image_size, model.image_size)
    found = tuple(examples.images.shape[1:])
    if takes != found or int(examples.labels.max()) >= model.classes:
        msg = f"{file}: the model takes images of {_product(takes)} and has {model.classes} "
        msg += f"classes, but the data has images of {_product(found)} and labels up to "
        msg += f"{examples.labels.max()}; use --config to name the data for this model"
        raise CheckpointError(msg)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)

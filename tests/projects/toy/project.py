"""Defines the project for its commands."""

from pathlib import Path

import numpy as np

from gates.errors import CheckpointError
from gates.evaluation.predictions import Predictions
from gates.files import sha256
from training import scores
from training.data import files_of
from training.project import Project
from training.pytorch.outputs import outputs

from toy import data
from toy.config import SETTINGS, RunConfig
from toy.data import Examples
from toy.learner import METHOD


def predict(file: Path, examples: Examples) -> Predictions:
    """Return the predictions of the checkpoint in `file` for `examples`."""
    checkpoint = METHOD.load(file)
    takes, found = checkpoint.config.model.pixels, examples.images.shape[1]
    if takes != found:
        msg = f"{file}: its model takes {takes} pixels, and the data has {found}"
        raise CheckpointError(msg)
    probabilities = outputs(METHOD.model(checkpoint), examples.images).softmax(dim=1).numpy()
    return Predictions(
        ids=examples.ids,
        labels=examples.labels.numpy(),
        predictions=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        subgroups={"brightness": examples.brightnesses},
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
        config_digest=checkpoint.config_digest,
    )


PROJECT: Project[RunConfig, Examples] = Project(
    settings=SETTINGS,
    examples=data.examples_of,
    data_files=files_of,
    method=METHOD,
    predict=predict,
    write_scores=scores.write_scores,
    score_files=scores.files_in,
)

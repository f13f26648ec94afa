"""Predictions of a checkpoint for held-out examples."""

from pathlib import Path

from gates.evaluation.predictions import Predictions
from gates.files import sha256
from training.onnx import trees

from doctor_visits.config import RunConfig
from doctor_visits.data import Examples


def predict(file: Path, examples: Examples) -> Predictions:
    """Return the predictions of the checkpoint in `file` for `examples`.

    Raises:
        CheckpointError: the file is not a checkpoint of this project.
    """
    checkpoint = trees.load(file, RunConfig)
    return Predictions(
        ids=examples.ids,
        labels=examples.labels,
        predictions=checkpoint.predict(examples.features),
        clusters=examples.clusters,
        subgroups=examples.subgroups,
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
        config_digest=checkpoint.config_digest,
    )

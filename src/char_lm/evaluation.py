"""Scores of a checkpoint on held-out passages."""

from pathlib import Path

from gates.evaluation.predictions import Predictions
from gates.files import sha256
from training.pytorch.outputs import each_score

from char_lm.data import Examples
from char_lm.learner import BITS, METHOD


def predict(file: Path, examples: Examples) -> Predictions:
    """Return the bits per character of the model in `file` on each of `examples`."""
    checkpoint = METHOD.load(file)
    bits = each_score(METHOD.model(checkpoint), examples.tensors, BITS)
    return Predictions(
        ids=examples.ids,
        scores={BITS.name: bits.numpy()},
        clusters=examples.modules,
        subgroups={"package": examples.packages},
        data_digest=examples.data_digest,
        checkpoint_digest=sha256(file),
        config_digest=checkpoint.config_digest,
    )

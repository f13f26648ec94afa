"""An interpolated n-gram model of characters on char_lm's splits; writes its predictions.

A character's probability given the `order` characters before it, smoothed by Witten and Bell's
rule: each order gives as much weight to the next lower one as it has seen kinds of characters.

Source: Witten and Bell (1991), "The zero-frequency problem", IEEE Transactions on Information
Theory 37:1085-1094; interpolated as in Chen and Goodman (1999), section 2.6.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gates.evaluation.predictions import Predictions, write_predictions
from training import config as configs

from char_lm import data
from char_lm.config import RunConfig
from char_lm.learner import BITS
from char_lm.vocabulary import NEWLINE, PADDING, SYMBOLS

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def main() -> None:
    """Count the training split, score the test split, and write that as predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="names the data")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="KEY=VALUE")
    parser.add_argument("--order", type=int, default=5, help="characters of context")
    parser.add_argument("--predictions", type=Path, required=True, help="is written")
    options = parser.parse_args()
    config = configs.load(RunConfig, options.config, options.overrides)
    file = data.DATASET.prepare(config.data)
    training, test = data.load(file, "train"), data.load(file, "test")
    bits = bits_of_passages(training.symbols.numpy(), test.symbols.numpy(), order=options.order)
    predictions = Predictions(
        ids=test.ids,
        scores={BITS.name: bits},
        clusters=test.modules,
        subgroups={"package": test.packages},
        data_digest=test.data_digest,
        # It has no checkpoint: all of it follows from its order and the data.
        checkpoint_digest=hashlib.sha256(f"{options.order}-gram".encode()).hexdigest(),
    )
    write_predictions(predictions, options.predictions)


def bits_of_passages(
    training: npt.NDArray[np.int8], test: npt.NDArray[np.int8], *, order: int
) -> FloatArray:
    """Return the mean bits a character of each test passage, (n_passages,).

    Args:
        training: (n_training_passages, length) symbols, from which the model counts.
        test: (n_passages, length) symbols.
        order: how many characters before it a character's probability depends on.
    """
    is_read = test != PADDING
    probabilities = np.full(int(is_read.sum()), 1 / SYMBOLS)
    for context in range(order + 1):
        probabilities = _interpolated(probabilities, _keys(training, context), _keys(test, context))
    bits = np.zeros(test.shape)
    bits[is_read] = -np.log2(probabilities)
    means: FloatArray = bits.sum(axis=1) / is_read.sum(axis=1)
    return means


def _keys(symbols: npt.NDArray[np.int8], context: int) -> IntArray:
    """Return a number for each character and the `context` ones before it, as the model reads them.

    The last digit in base SYMBOLS is the character itself. Before a passage are newlines.
    """
    length = symbols.shape[1]
    before = ((0, 0), (context, 0))
    padded = np.pad(symbols.astype(np.int64), before, constant_values=NEWLINE)
    keys = np.zeros(symbols.shape, np.int64)
    for start in range(context + 1):
        keys = keys * SYMBOLS + padded[:, start : start + length]
    read: IntArray = keys[symbols != PADDING]
    return read


def _interpolated(lower: FloatArray, training: IntArray, test: IntArray) -> FloatArray:
    """Return the probabilities of one order, from those of the next lower one."""
    grams, counts = np.unique(training, return_counts=True)
    contexts, kinds = np.unique(grams // SYMBOLS, return_counts=True)
    totals = np.bincount(np.searchsorted(contexts, grams // SYMBOLS), weights=counts)
    seen = _looked_up(grams, counts, test)
    total = _looked_up(contexts, totals, test // SYMBOLS)
    kind = _looked_up(contexts, kinds, test // SYMBOLS)
    mixed = (seen + kind * lower) / np.maximum(total + kind, 1)
    return np.where(total > 0, mixed, lower)


def _looked_up(keys: IntArray, values: npt.NDArray[np.generic], wanted: IntArray) -> FloatArray:
    """Return the value of each wanted key, 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0).astype(np.float64)


if __name__ == "__main__":
    main()

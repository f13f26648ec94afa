"""The model can memorise a few rows, and two controls cannot."""

import dataclasses

import numpy as np

from doctor_visits.config import RunConfig
from doctor_visits.data import Examples
from doctor_visits.method import boosted

ROWS = 64
OVERFIT = {"trees": 300, "depth": 6, "learning_rate": 0.2, "share": 1.0, "leaf_examples": 1}
BAR = 0.05  # visits; predicting the mean is wrong by two


def test_a_few_rows_are_memorised(config: RunConfig, training: Examples) -> None:
    rows = one_of_each_cluster(training)
    assert error_of(overfitting(config), rows, rows) < BAR < error_of_mean(rows) / 20


def test_one_small_step_learns_little(config: RunConfig, training: Examples) -> None:
    rows = one_of_each_cluster(training)
    lazy = changed(overfitting(config), trees=1, learning_rate=0.01)
    assert error_of(lazy, rows, rows) > 10 * BAR


def test_shuffled_labels_teach_nothing(
    config: RunConfig, training: Examples, held_out: Examples
) -> None:
    # Shuffled over all rows: shuffling within a cluster would change nothing.
    shuffled = np.random.default_rng(0).permutation(training.labels)
    relabelled = dataclasses.replace(training, labels=shuffled)
    mean = np.abs(held_out.labels - training.labels.mean()).mean()
    # The Huber loss predicts less than the mean, and that alone lowers the absolute error; squared
    # errors show whether the covariates are informative.
    model_error = squared_error_of(config, training, held_out)
    control_error = squared_error_of(config, relabelled, held_out)
    baseline_error = np.square(held_out.labels - training.labels.mean()).mean()
    assert control_error > 0.99 * baseline_error
    assert model_error < 0.97 * baseline_error
    assert error_of(config, training, held_out) < 0.95 * mean


def overfitting(config: RunConfig) -> RunConfig:
    return changed(config, **OVERFIT)


def changed(config: RunConfig, **changes: float) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def one_of_each_cluster(examples: Examples) -> Examples:
    """Return rows that differ from each other: equal rows cannot all be memorised."""
    _, first = np.unique(examples.clusters, return_index=True)
    chosen = first[:ROWS]
    return dataclasses.replace(
        examples,
        ids=examples.ids[chosen],
        features=examples.features[chosen],
        labels=examples.labels[chosen],
        clusters=examples.clusters[chosen],
    )


def error_of(config: RunConfig, training: Examples, examples: Examples) -> float:
    predicted = boosted(config, training).predict(examples.features)
    return float(np.abs(predicted - examples.labels).mean())


def squared_error_of(config: RunConfig, training: Examples, examples: Examples) -> float:
    predicted = boosted(config, training).predict(examples.features)
    return float(np.square(predicted - examples.labels).mean())


def error_of_mean(examples: Examples) -> float:
    return float(np.abs(examples.labels - examples.labels.mean()).mean())

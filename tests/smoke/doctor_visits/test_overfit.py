"""Can the model learn at all? A few rows are learned by heart, and two controls must not be."""

import dataclasses

import numpy as np

from doctor_visits.config import RunConfig
from doctor_visits.data import Examples
from doctor_visits.method import boosted

ROWS = 64
OVERFIT = {"trees": 300, "depth": 6, "learning_rate": 0.2, "share": 1.0, "leaf_examples": 1}
BAR = 0.05  # visits; the mean of the rows is wrong by two


def test_a_few_rows_are_learned_by_heart(config: RunConfig, training: Examples) -> None:
    rows = one_of_each_cluster(training)
    assert error_of(overfitting(config), rows, rows) < BAR < error_of_mean(rows) / 20


def test_one_small_step_learns_little(config: RunConfig, training: Examples) -> None:
    rows = one_of_each_cluster(training)
    lazy = changed(overfitting(config), trees=1, learning_rate=0.01)
    assert error_of(lazy, rows, rows) > 10 * BAR


def test_labels_detached_from_their_rows_teach_nothing(
    config: RunConfig, training: Examples, held_out: Examples
) -> None:
    # Whole clusters change their labels: within one, any order is as good as another.
    shuffled = np.random.default_rng(0).permutation(training.labels)
    detached = dataclasses.replace(training, labels=shuffled)
    mean = np.abs(held_out.labels - training.labels.mean()).mean()
    # The Huber loss predicts less than the mean, which alone lowers the absolute error; squared
    # errors show whether the covariates say anything.
    learned = squared_error_of(config, training, held_out)
    taught_nothing = squared_error_of(config, detached, held_out)
    of_mean = np.square(held_out.labels - training.labels.mean()).mean()
    assert taught_nothing > 0.99 * of_mean
    assert learned < 0.97 * of_mean
    assert error_of(config, training, held_out) < 0.95 * mean


def overfitting(config: RunConfig) -> RunConfig:
    return changed(config, **OVERFIT)


def changed(config: RunConfig, **changes: float) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def one_of_each_cluster(examples: Examples) -> Examples:
    """Return rows that differ from each other: equal ones cannot all be learned by heart."""
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

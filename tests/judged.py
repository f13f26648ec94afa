"""Made-up predictions and policies for the tests of the evaluation gate."""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gates.evaluation.policy import Policy, load_policy
from gates.evaluation.predictions import (
    Predictions,
    PredictionsFile,
    open_predictions,
    write_predictions,
)

CLASSES = 10
CANDIDATE, BASELINE, DATA, CONFIG = ("c" * 64, "b" * 64, "d" * 64, "f" * 64)

# The smallest policy that judges anything; each test overrides the keys it is about.
POLICY: dict[str, Any] = {
    "alpha": 0.05,
    "power": 0.8,
    "metrics": {
        "accuracy": {
            "primary": True,
            "of": "correct",
            "better": "higher",
            "margin": 0.02,
            "floor": 0.0,
            "require": "noninferiority",
        }
    },
    "subgroups": {
        "columns": {},
        "intersections": [],
        "margin": 0.05,
        "floor": 0.0,
        "minimum_examples": 10,
        "too_small": "report",
        "require": "no_harm",
        "correction": "holm",
    },
    "resamples": 199,
    "seed": 0,
}


def write_policy(file: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write `POLICY` to `file` with `changes`, a value by dotted key; JSON is YAML.

    `accuracy.…` is short for `metrics.accuracy.…`, and `metrics` adds metrics to the policy's own.
    """
    rules = copy.deepcopy(POLICY)
    for key, value in (changes or {}).items():
        if key == "metrics":
            rules["metrics"] |= value
            continue
        *sections, leaf = key.split(".")
        sections = ["metrics", *sections] if sections[:1] == ["accuracy"] else sections
        section = rules
        for name in sections:
            section = section[name]
        section[leaf] = value
    file.write_text(json.dumps({"evaluation": rules}))
    return file


def policy(folder: Path, changes: Mapping[str, Any] | None = None) -> Policy:
    return load_policy(write_policy(folder / "policy.yaml", changes))


def scored(right: Sequence[bool] | npt.NDArray[np.bool_], **changes: Any) -> Predictions:
    """Return predictions that are correct where `right` is true, all equally confident."""
    is_right = np.asarray(right, dtype=np.bool_)
    labels = np.arange(len(is_right)) % CLASSES
    predictions = np.where(is_right, labels, (labels + 1) % CLASSES)
    probabilities = np.full((len(is_right), CLASSES), 0.1 / (CLASSES - 1))
    probabilities[np.arange(len(is_right)), predictions] = 0.9
    fields: dict[str, Any] = {
        "ids": np.array([f"e{row:05d}" for row in range(len(is_right))], dtype=np.str_),
        "labels": labels,
        "predictions": predictions,
        "probabilities": probabilities,
        "data_digest": DATA,
        "checkpoint_digest": CANDIDATE,
        "config_digest": CONFIG,
    }
    return Predictions(**fields | changes)


def pair(
    both: int, candidate_only: int, baseline_only: int, neither: int, **changes: Any
) -> tuple[Predictions, Predictions]:
    """Return candidate and baseline predictions; each argument counts who is right."""
    ours = [True] * (both + candidate_only) + [False] * (baseline_only + neither)
    theirs = [True] * both + [False] * candidate_only + [True] * baseline_only + [False] * neither
    return scored(ours, **changes), scored(theirs, checkpoint_digest=BASELINE, **changes)


def in_order(predictions: Predictions, order: Sequence[int]) -> Predictions:
    """Return the rows `order` of `predictions`, which may reorder, drop or repeat some."""
    rows = list(order)
    probabilities = predictions.probabilities
    return dataclasses.replace(
        predictions,
        ids=predictions.ids[rows],
        labels=predictions.labels[rows],
        predictions=predictions.predictions[rows],
        probabilities=None if probabilities is None else probabilities[rows],
        subgroups={name: values[rows] for name, values in predictions.subgroups.items()},
    )


def written(predictions: Predictions, folder: Path, name: str) -> PredictionsFile:
    """Write `predictions` into `folder` and open them; errors call the file `name`."""
    file = folder / f"{name}.parquet"
    write_predictions(predictions, file)
    return open_predictions(file, name=name)


def metric(of: str, margin: float, **more: Any) -> dict[str, Any]:
    """Return the rule for a lower-is-better metric that must be non-inferior."""
    return {
        "of": of,
        "better": "lower",
        "margin": margin,
        "require": "noninferiority",
        **more,
    }

"""Counts what this project's model and the support vector machine get wrong over five folds.

python -m benchmarks.peers.folds --config configs/base.yaml --threads 2

Of the training and validation splits only: what is chosen by it has not seen the test split, and
with more examples it tells more than the validation split alone. Prints JSON.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.svm import SVC

from training import config as configs
from training.pytorch import determinism, loop
from training.pytorch.outputs import mean_score

from benchmarks.peers.svc import pixels
from my_project import data
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.learner import LEARNER, is_right

FOLDS = 5


def main() -> None:
    """Train and score both on each fold, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the model and its training")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="KEY=VALUE")
    parser.add_argument("--threads", type=int, required=True, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = configs.load(RunConfig, options.config, options.overrides)
    determinism.configure(config)
    examples, ours, machine = 0, 0, 0
    for training_part, held_out in _folds(config, where=str(options.config)):
        examples += len(held_out)
        ours += _wrong_of_ours(config, training_part, held_out)
        machine += _wrong_of_svc(training_part, held_out)
    print(json.dumps({"examples": examples, "ours": ours, "svc": machine}))


def _folds(config: RunConfig, *, where: str) -> Iterator[tuple[Examples, Examples]]:
    """Yield what to learn from and what to be scored on; each example is scored once."""
    parts = [data.examples_of(config, split, where=where) for split in ("train", "validation")]
    everything = dataclasses.replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        thicknesses=np.concatenate([part.thicknesses for part in parts]),
    )
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    for fold in range(FOLDS):
        is_held_out = torch.arange(len(everything)) % FOLDS == fold
        yield _chosen(everything, order[~is_held_out]), _chosen(everything, order[is_held_out])


def _chosen(examples: Examples, rows: torch.Tensor) -> Examples:
    return dataclasses.replace(
        examples,
        ids=examples.ids[rows.numpy()],
        images=examples.images[rows],
        labels=examples.labels[rows],
        thicknesses=examples.thicknesses[rows.numpy()],
    )


def _wrong_of_ours(config: RunConfig, training_part: Examples, held_out: Examples) -> int:
    trainer = loop.new_trainer(loop.new_model(LEARNER, config), config.train)
    loop.fit(trainer, training_part, config, LEARNER)
    share = mean_score(trainer.model, held_out, is_right)
    return round((1 - share) * len(held_out))


def _wrong_of_svc(training_part: Examples, held_out: Examples) -> int:
    machine = SVC(gamma=0.001).fit(pixels(training_part), training_part.labels.numpy())
    return int((machine.predict(pixels(held_out)) != held_out.labels.numpy()).sum())


if __name__ == "__main__":
    main()

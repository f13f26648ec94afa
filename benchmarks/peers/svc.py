"""scikit-learn's support vector machine on the same split; counts who is right, prints JSON.

https://scikit-learn.org/stable/auto_examples/classification/plot_digits_classification.html
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.svm import SVC

from training import config as configs

from my_project import data
from my_project.config import RunConfig
from my_project.data import Examples


def main() -> None:
    """Train the machine, score it and the given predictions on the test split, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path, nargs="+", help="files that `eval` wrote")
    parser.add_argument("--config", type=Path, required=True, help="names the data")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="KEY=VALUE")
    options = parser.parse_args()
    config = configs.load(RunConfig, options.config, options.overrides)
    training, test = (
        data.examples_of(config, split, where=str(options.config)) for split in ("train", "test")
    )
    machine = SVC(gamma=0.001).fit(pixels(training), training.labels.numpy())
    right = machine.predict(pixels(test)) == test.labels.numpy()
    counts = {
        "training": len(training),
        "examples": len(test),
        "svc": int(right.sum()),
        "ours": [_right(file, test) for file in options.predictions],
    }
    print(json.dumps(counts))


def pixels(examples: Examples) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the images as scikit-learn has them: (n_examples, 64), from 0 to 16."""
    ink = (examples.images.numpy().reshape(len(examples), -1).astype(np.float64) + 1) / 2
    return ink * data.LARGEST_PIXEL


def _right(file: Path, test: Examples) -> int:
    """Return how many of the test split are predicted right in `file`."""
    table = pq.read_table(file, columns=["id", "label", "prediction"])
    predicted = dict(zip(table["id"].to_pylist(), table["prediction"].to_pylist(), strict=True))
    if predicted.keys() != set(test.ids.tolist()):
        msg = f"{file}: does not hold the test split"
        raise SystemExit(msg)
    labels = zip(test.ids.tolist(), test.labels.tolist(), strict=True)
    return sum(predicted[name] == label for name, label in labels)


if __name__ == "__main__":
    main()

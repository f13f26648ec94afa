"""Measure training against what the machine can do: python -m my_project.gpu_bench."""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.pytorch import bench

from my_project.config import SETTINGS, RunConfig


def model_flops(config: RunConfig) -> int:
    """Return the operations of a step's matrix products: a multiplication and an addition each."""
    model = config.model
    tokens = (model.image_size // model.patch_size) ** 2
    patches = tokens * model.channels * model.patch_size**2 * model.width
    # Queries, keys and values 3, output 1, perceptron 4 + 4 products of a token with width x width.
    block = 12 * tokens * model.width**2 + 2 * tokens**2 * model.width
    head = model.width * model.classes
    # Backward: the gradients of both factors; the images need none.
    multiplications = 2 * patches + 3 * (model.depth * block + head)
    return 2 * multiplications * config.train.batch_size


SUBJECT = bench.Subject(
    settings=SETTINGS,
    configs=(Path("configs/base.yaml"), Path("configs/gpu-bench.yaml")),
    flops=model_flops,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return bench.main(SUBJECT, arguments)


if __name__ == "__main__":
    sys.exit(main())

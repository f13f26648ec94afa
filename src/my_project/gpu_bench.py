"""Compare training speed with the machine's measured limits: python -m my_project.gpu_bench."""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.pytorch import bench

from my_project.config import SETTINGS, RunConfig


def model_flops(config: RunConfig) -> int:
    """Return the operations of a step's matrix products, counting a multiply-add as two."""
    model = config.model
    tokens = (model.image_size // model.patch_size) ** 2
    patches = tokens * model.channels * model.patch_size**2 * model.width
    # Products of each token with width x width: 3 for q, k and v, 1 for the output, 8 in the MLP.
    block = 12 * tokens * model.width**2 + 2 * tokens**2 * model.width
    head = model.width * model.classes
    # The backward pass computes gradients of both factors, but none for the images.
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

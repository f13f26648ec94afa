"""Makes a run repeatable: seeds, and algorithms that give the same bits each time."""

import os
import random

import numpy as np
import torch

from training.config import TorchConfig


def configure(config: TorchConfig) -> dict[str, str]:
    """Seed every generator and choose the algorithms; return these settings for the provenance.

    Call this before the first computation on a GPU: cuBLAS reads its workspace setting once.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - forks and libraries use the global generator
    torch.manual_seed(config.seed)
    if config.train.deterministic:
        # https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.train.deterministic)
    torch.backends.cudnn.benchmark = not config.train.deterministic
    return {
        "seed": str(config.seed),
        "deterministic_algorithms": str(config.train.deterministic),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "not set"),
        "threads": str(torch.get_num_threads()),
    }

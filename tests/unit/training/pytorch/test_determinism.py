import os
import random

import numpy as np
import pytest
import torch

from training.pytorch import determinism

from toy.config import RunConfig

# These tests set process-wide state; conftest.py restores it after each test.


def draw() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: S311, NPY002


def with_deterministic(config: RunConfig, *, deterministic: bool) -> RunConfig:
    train = config.train.model_copy(update={"deterministic": deterministic})
    return config.model_copy(update={"train": train})


def test_same_seed_gives_the_same_random_numbers(config: RunConfig) -> None:
    determinism.configure(config)
    first = draw()
    determinism.configure(config)
    assert draw() == first


@pytest.mark.parametrize("generator", range(3), ids=["python", "numpy", "torch"])
def test_another_seed_gives_other_random_numbers(config: RunConfig, generator: int) -> None:
    determinism.configure(config)
    first = draw()
    determinism.configure(config.model_copy(update={"seed": 1}))
    assert draw()[generator] != first[generator]


def test_every_generator_accepts_the_largest_seed(config: RunConfig) -> None:
    determinism.configure(config.model_copy(update={"seed": 2**32 - 1}))


@pytest.mark.parametrize("deterministic", [True, False])
def test_algorithms_follow_the_configuration(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, *, deterministic: bool
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    flags = determinism.configure(with_deterministic(config, deterministic=deterministic))
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    # https://docs.nvidia.com/cuda/cublas/#results-reproducibility names :4096:8 and :16:8.
    workspace = ":4096:8" if deterministic else None
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace
    assert flags == {
        "seed": "0",
        "deterministic_algorithms": str(deterministic),
        "cublas_workspace": workspace or "not set",
        "threads": str(torch.get_num_threads()),
    }


def test_workspace_set_by_the_user_is_kept(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert determinism.configure(config)["cublas_workspace"] == ":16:8"

"""Does the GPU train as the CPU does?

What that means is in tests/unit/my_project/agreement.py.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.my_project import agreement
from training import config as configs

# Warnings are errors elsewhere; those that compiling for some GPU gives are not ours to foresee.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    return agreement.some_weights()


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    """Let no test meet what another one has compiled."""
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_is_that_of_the_cpu_in_float32(
    weights: Mapping[str, Tensor], precision: str, *, compiled: bool
) -> None:
    config = agreement.config("cuda", precision=precision, compile=compiled)
    agreement.assert_step_agrees_with_the_reference(weights, config)


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_run_goes_on_elsewhere(tmp_path: Path, first: str, then: str) -> None:
    agreement.assert_resumes_elsewhere(tmp_path, first, then)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_gives_the_same_bits(tmp_path: Path, precision: str) -> None:
    """In processes of their own: cuBLAS reads once what makes it repeat itself."""
    config = agreement.config("cuda", precision=precision)
    assert config.train.deterministic
    one, again = (checkpoint_of(config, tmp_path / name) for name in ("one", "again"))
    assert one == again
    other = config.model_copy(update={"seed": 1})
    assert checkpoint_of(other, tmp_path / "other") != one, "the control: something is compared"


def checkpoint_of(config: configs.RunConfig, folder: Path) -> str:
    """Train by the command; return the digest of the weights."""
    folder.mkdir()
    (folder / "config.yaml").write_bytes(configs.dump(config))
    command = [sys.executable, "-m", "my_project.train", "--config", "config.yaml"]
    trained = subprocess.run(
        [*command, "--run-id", "run"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    checkpoint = folder / "outputs" / "run" / "checkpoint.pt"
    weights = torch.load(checkpoint, weights_only=True)["weights"]
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()

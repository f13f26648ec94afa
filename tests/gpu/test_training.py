"""Training on the GPU agrees with training on the CPU, as defined in agreement.py."""

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

# Warnings are errors elsewhere, but we cannot foresee the warnings of compiling for every GPU.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    return agreement.trained_weights()


@pytest.fixture(autouse=True)
def _no_compiled_code_is_shared() -> Iterator[None]:
    """Discard compiled code after each test, so that no test reuses another's."""
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_agrees_with_float32_on_the_cpu(
    weights: Mapping[str, Tensor], precision: str, *, compiled: bool
) -> None:
    config = agreement.config("cuda", precision=precision, compile=compiled)
    agreement.assert_step_agrees_with_the_reference(weights, config)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_run_resumes_on_another_device(tmp_path: Path, first: str, second: str) -> None:
    agreement.assert_resumes_on_another_device(tmp_path, first, second)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_gives_identical_weights(tmp_path: Path, precision: str) -> None:
    """Runs in subprocesses, because cuBLAS reads its determinism setting only once per process."""
    config = agreement.config("cuda", precision=precision)
    assert config.train.deterministic
    one, repeated = (checkpoint_of(config, tmp_path / name) for name in ("one", "repeated"))
    assert one == repeated
    other = config.model_copy(update={"seed": 1})
    assert checkpoint_of(other, tmp_path / "other") != one, "another seed gave the same weights"


def checkpoint_of(config: configs.RunConfig, folder: Path) -> str:
    """Train with the command; return the digest of the weights."""
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

import pytest
import torch


@pytest.fixture(autouse=True)
def _gpu() -> None:
    """Skip without a GPU; `nox -s gpu-test` checks first and fails if CI=true."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")

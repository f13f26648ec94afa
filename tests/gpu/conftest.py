import pytest
import torch


@pytest.fixture(autouse=True)
def _gpu() -> None:
    """Skip where there is no GPU: `nox -s gpu-test` has looked before, and fails with CI=true."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")

from pathlib import Path

import pytest

from tests import repository


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and the sessions, committed in a repository of its own."""
    return repository.copy(tmp_path / "a checkout")

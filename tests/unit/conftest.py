import shutil
from pathlib import Path

import pytest

from tasks.project import ROOT
from tests import repository


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and the sessions, committed in a repository of its own."""
    root = tmp_path / "a checkout"
    for name in repository.files():
        if name.startswith(("benchmarks/", "docs/", "tests/")):
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    repository.git("init", "--quiet", cwd=root)
    repository.git("add", "--all", cwd=root)
    committed = repository.git("commit", "--quiet", "--message", "copy", cwd=root)
    assert committed.returncode == 0, committed.stderr
    return root

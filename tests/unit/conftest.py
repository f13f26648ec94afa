from collections.abc import Callable
from pathlib import Path

import pytest

from tests import repository


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sessions, committed in a new repository."""
    return repository.copy_of_sessions(tmp_path / "a checkout")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must exit with 2 and one line on stderr; return that line."""

    def run(command: Callable[[list[str]], int], *arguments: object) -> str:
        try:
            code: object = command([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse ends this way
            code = stop.code
        printed = capsys.readouterr().err
        assert code == 2, printed
        assert printed.count("\n") == 1, printed
        return printed.rstrip("\n")

    return run

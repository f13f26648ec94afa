import io
import sys

import pytest

from gates.progress import waiting_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_a_command_is_waiting_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with waiting_for("opening the registry sqlite:///[a]/b"):
        pass
    assert "opening the registry sqlite:///[a]/b …" in terminal.getvalue()


def test_nothing_is_printed_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting_for("opening the registry"):
        pass
    assert capsys.readouterr() == ("", "")

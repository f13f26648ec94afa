import io
import os
import re
import sys

import pytest

from training import progress


def show(*, silent: bool = False) -> None:
    with progress.shown(silent=silent) as display:
        display.step(1, 8, 2.5)
        display.line("epoch 1/2: [loss] 2.3026")
        display.step(8, 8, 0.25)


def test_lines_are_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show()
    assert capsys.readouterr().out == "epoch 1/2: [loss] 2.3026\n"


def test_silent_process_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show(silent=True)
    assert capsys.readouterr().out == ""


def test_terminal_shows_a_bar_and_keeps_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    parent_end, child_end = os.openpty()
    with open(child_end, "w", encoding="utf-8") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdout", terminal)
        show()
        monkeypatch.undo()
    seen = read_all(parent_end)
    assert "epoch 1/2: [loss] 2.3026\r\n" in seen
    assert "step 0/" not in seen, "shows a bar before the total is known"
    assert "step 8/8 loss 0.2500" in re.sub(r"\x1b\[[0-9;]*m", "", seen)
    # The bar removes itself at the end: the cursor returns to its line and erases it.
    assert seen.rindex("\x1b[2K") > seen.rindex("loss")


def read_all(descriptor: int) -> str:
    """Return everything that a closed terminal received; its end is an OSError."""
    pieces = []
    try:
        while piece := os.read(descriptor, 65_536):
            pieces.append(piece)
    except OSError:
        os.close(descriptor)
    return b"".join(pieces).decode()


def test_line_written_to_a_file_is_flushed_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    log = Log()
    monkeypatch.setattr(sys, "stdout", log)
    with progress.shown() as display:
        display.line("epoch 1/2")
        assert log.getvalue() == "epoch 1/2\n"
        assert log.flushed == 1

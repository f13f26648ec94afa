"""Writes a run's metrics.jsonl, which has one line per step."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gates.errors import GateInputError
from gates.files import write_text


class Metrics:
    """The metrics.jsonl of a run, one line per step."""

    def __init__(self, file: Path, step: int, say: Callable[[str], None]) -> None:
        """Continue after `step`; drop later lines, which an interrupted run may have left.

        Missing and damaged lines are only reported with `say`: training does not depend on them.
        """
        kept = _lines_until(step, file) if step else []
        if len(kept) < step:
            say(f"{file}: {step - len(kept)} of the first {step} lines are missing or damaged")
        write_text(file, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = file
        self._lines = kept

    def write(self, line: dict[str, Any]) -> None:
        """Append the line for a step."""
        self._lines.append(line)
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            msg = f"{self._file}: cannot be written ({error.strerror}); fix the cause, then "
            msg += "--resume"
            raise GateInputError(msg) from error

    def mean_loss(self, epoch: int) -> float:
        """Return the mean loss over all batches of `epoch`, including batches before a resume."""
        losses: list[float] = [line["loss"] for line in self._lines if line["epoch"] == epoch]
        return sum(losses) / len(losses)


def _lines_until(step: int, file: Path) -> list[dict[str, Any]]:
    """Return all readable lines of metrics.jsonl up to and including `step`."""
    try:
        texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    lines = {}
    for text in texts:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            if line["step"] <= step and {"epoch", "loss"} <= line.keys():
                lines[line["step"]] = line
    return list(lines.values())

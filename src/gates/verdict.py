"""The one result that every gate returns, and how it is shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from gates.errors import ExitCode
from gates.files import atomic_write

SCHEMA = "verdict/1"


class Outcome(StrEnum):
    """What a gate concludes from the evidence."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that says this outcome."""
        return {
            Outcome.PASS: ExitCode.PASSED,
            Outcome.FAIL: ExitCode.FAILED,
            Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
        }[self]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate concluded, why, and from what.

    Args:
        gate: the gate's name.
        outcome: its conclusion.
        reason: one sentence with the figures that decided.
        metrics: every figure that was computed, by name.
        evidence: SHA-256 of each thing that was judged, by name.
        notes: what a reader must know besides, such as why there was no baseline.
    """

    gate: str
    outcome: Outcome
    reason: str
    metrics: Mapping[str, float]
    evidence: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the verdict as JSON text, keys sorted."""
        document = {
            "schema": SCHEMA,
            "gate": self.gate,
            "outcome": self.outcome,
            "reason": self.reason,
            "metrics": dict(self.metrics),
            "evidence": dict(self.evidence),
            "notes": dict(self.notes),
        }
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Return the verdict for a terminal."""
        lines = [f"{self.gate}: {self.outcome.upper()} - {self.reason}"]
        lines += [f"  {name}: {note}" for name, note in self.notes.items()]
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        """Write the verdict to `file` as JSON."""
        with atomic_write(file) as stream:
            stream.write(self.to_json().encode())

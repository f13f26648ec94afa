"""Runs that are made up, whose files fit together: what the tests of the registry register."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gates import evaluation, provenance
from gates.policy import Policy, load_policy
from gates.predictions import open_predictions, write_predictions
from gates.provenance import Attempt, SourceState, TrainingRun
from gates.registry.files import Submission
from gates.registry.submission import read_submission
from gates.verdict import Verdict
from tests.judged import DATA, POLICY, scored

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STAGE: dict[str, Any] = {
    "data_gates": [],
    "sbom": False,
    "clean_source": True,
    "hours_in_staging": 0,
    "approver": "none",
}
BAD = b"answers nonsense"


def smoke(folder: Path) -> None:
    """What stands for a project's own check: a checkpoint can be bad though it is whole."""
    if BAD in (folder / "checkpoint.pt").read_bytes():
        msg = "the model answers nonsense"
        raise ValueError(msg)


def needs_what_is_not_here(_: Path) -> None:
    """What stands for a project whose code or data is not on this machine."""
    msg = "no such library here"
    raise ImportError(msg)


def write_policy(
    folder: Path,
    *,
    staging: Mapping[str, Any] | None = None,
    production: Mapping[str, Any] | None = None,
) -> Path:
    """Write a policy with these criteria besides a verdict; JSON is YAML."""
    promotion = {
        "smoke": "tests.registered:smoke",
        "staging": {**STAGE, **(staging or {})},
        "production": {**STAGE, **(production or {})},
    }
    file = folder / "gates.yaml"
    file.write_text(json.dumps({"evaluation": POLICY, "promotion": promotion}))
    return file


def policy(folder: Path, **stages: Mapping[str, Any]) -> Policy:
    return load_policy(write_policy(folder, **stages))


class Run:
    """The folder of a run, and the verdict on it.

    Args:
        folder: where it is made.
        weights: the content of its checkpoint.
        source: what it was made from.
    """

    def __init__(
        self,
        folder: Path,
        weights: bytes,
        source: SourceState = SourceState(  # noqa: B008 - it cannot be changed
            commit=COMMIT, diff_digest=None, lock_digest=None
        ),
    ) -> None:
        self.folder = folder
        self.verdict_file = folder / "judged.json"
        folder.mkdir()
        checkpoint = folder / "checkpoint.pt"
        checkpoint.write_bytes(weights)
        self.checkpoint = hashlib.sha256(weights).hexdigest()
        (folder / "config.yaml").write_text("seed: 0\n")
        write_predictions(
            scored([True] * 200, checkpoint_digest=self.checkpoint), folder / "predictions.parquet"
        )
        now = datetime.now(UTC)
        attempt = Attempt(first_step=0, started=now, source=source, runtime={"torch": "2.15"})
        described = TrainingRun(
            run_id=folder.name,
            config={"seed": 0},
            data_digest=DATA,
            determinism={"seed": "0"},
            attempts=[attempt],
            finished=now,
        )
        document = provenance.statement(checkpoint, described)
        provenance.write(document, folder / "provenance.json")

    def judge(self, rules: Policy, against: "Run | None" = None) -> Verdict:
        """Have the gate judge it, and keep the verdict."""
        mine = open_predictions(self.folder / "predictions.parquet")
        if against is None:
            verdict = evaluation.accept_without_baseline(mine, rules, why="first release")
        else:
            theirs = open_predictions(against.folder / "predictions.parquet")
            verdict = evaluation.compare(mine, theirs, rules)
        self.verdict_file.write_text(verdict.to_json())
        return verdict

    def submission(self, **more: Any) -> Submission:
        return read_submission(self.folder, self.verdict_file, **more)

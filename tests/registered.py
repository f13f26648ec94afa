"""Runs that are made up, whose files fit together: what the tests of the registry register."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gates.data.declared import DeclaredData
from gates.evaluation import comparison
from gates.evaluation.policy import Policy, load_policy
from gates.evaluation.predictions import Predictions, open_predictions, write_predictions
from gates.evidence import provenance
from gates.evidence.provenance import Attempt, SourceState, TrainingRun
from gates.registry.files import Submission
from gates.registry.submission import read_submission
from gates.verdicts.verdict import Verdict
from tests.judged import DATA, POLICY, scored

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STAGE: dict[str, Any] = {
    "data_gates": [],
    "sbom": False,
    "clean_source": False,
    "hours_in_staging": 0,
    "approver": "none",
}
BAD = b"answers nonsense"


def smoke(folder: Path) -> None:
    """What stands for a project's own check: a checkpoint can be bad though it is whole.

    The predictions can be those of another model: this one is never wrong throughout.
    """
    table = next(open_predictions(folder / "predictions.parquet").batches())
    is_right = pc.equal(table["label"], table["prediction"])
    (checkpoint,) = folder.glob("checkpoint.*")
    if BAD in checkpoint.read_bytes() or not pc.any(is_right).as_py():
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
    attested_by: str = "none",
) -> Path:
    """Write a policy with these criteria besides a verdict; JSON is YAML."""
    promotion = {
        "smoke": "tests.registered:smoke",
        "data": "declared.json",
        "attested_by": attested_by,
        "staging": {**STAGE, **(staging or {})},
        "production": {**STAGE, **(production or {})},
    }
    declared = DeclaredData(digests=[DATA], rows={"test": 200}, columns={"id": "string"})
    (folder / "declared.json").write_text(declared.to_json())
    file = folder / "gates.yaml"
    file.write_text(json.dumps({"evaluation": POLICY, "promotion": promotion}))
    return file


def policy(folder: Path, **criteria: Any) -> Policy:
    return load_policy(write_policy(folder, **criteria))


class Run:
    """The folder of a run, and the verdict on it.

    Args:
        folder: where it is made.
        weights: the content of its checkpoint.
        source: what it was made from.
        data: the digest of the data that it learned from.
        runtime: the versions that it ran with.
        file: the name of its checkpoint.
        library: what its model is built with.
    """

    def __init__(  # noqa: PLR0913 - what it is made of, each given by its name
        self,
        folder: Path,
        weights: bytes,
        source: SourceState = SourceState(  # noqa: B008 - it cannot be changed
            commit=COMMIT, diff_digest=None, lock_digest=None
        ),
        *,
        data: str = DATA,
        runtime: Mapping[str, str] = {"torch": "2.15.0"},
        file: str = "checkpoint.pt",
        library: str = "pytorch",
    ) -> None:
        self.data = data
        self.folder = folder
        self.verdict_file = folder / "judged.json"
        folder.mkdir()
        checkpoint = folder / file
        checkpoint.write_bytes(weights)
        self.checkpoint = hashlib.sha256(weights).hexdigest()
        (folder / "config.yaml").write_text("seed: 0\n")
        write_predictions(self.scored([True] * 200), folder / "predictions.parquet")
        now = datetime.now(UTC)
        attempt = Attempt(first_step=0, started=now, source=source, runtime=runtime)
        described = TrainingRun(
            run_id=folder.name,
            config={"seed": 0},
            data_digest=data,
            determinism={"seed": "0"},
            attempts=[attempt],
            finished=now,
            library=library,
        )
        document = provenance.statement(checkpoint, described)
        provenance.write(document, folder / "provenance.json")

    def scored(self, right: Sequence[bool], **changes: Any) -> Predictions:
        """Return predictions of its model that are right where `right` says."""
        config = hashlib.sha256((self.folder / "config.yaml").read_bytes()).hexdigest()
        digests = {"checkpoint_digest": self.checkpoint, "config_digest": config}
        return scored(right, **{"data_digest": self.data, **digests, **changes})

    def judge(self, rules: Policy, against: "Run | None" = None) -> Verdict:
        """Have the gate judge it, and keep the verdict."""
        mine = open_predictions(self.folder / "predictions.parquet")
        if against is None:
            verdict = comparison.accept_without_baseline(mine, rules, why="first release")
        else:
            kept = self.folder / "baseline_predictions.parquet"
            theirs = open_predictions(
                kept if kept.exists() else against.folder / "predictions.parquet"
            )
            verdict = comparison.compare(mine, theirs, rules)
        self.verdict_file.write_text(verdict.to_json())
        return verdict

    def submission(self, **more: Any) -> Submission:
        return read_submission(self.folder, self.verdict_file, **more)

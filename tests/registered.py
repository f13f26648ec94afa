"""Made-up runs with consistent files, for the tests of the registry."""

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
    """Stands in for a project's smoke check: an intact checkpoint can still be bad.

    Predictions that are all wrong belong to another model: the models here are never all wrong.
    """
    table = next(open_predictions(folder / "predictions.parquet").batches())
    is_right = pc.equal(table["label"], table["prediction"])
    (checkpoint,) = folder.glob("checkpoint.*")
    if BAD in checkpoint.read_bytes() or not pc.any(is_right).as_py():
        msg = "the model answers nonsense"
        raise ValueError(msg)


def needs_a_missing_module(_: Path) -> None:
    """Stands in for a project whose code or data is not on this machine."""
    msg = "no such library here"
    raise ImportError(msg)


def write_policy(
    folder: Path,
    *,
    staging: Mapping[str, Any] | None = None,
    production: Mapping[str, Any] | None = None,
    attested_by: str = "none",
) -> Path:
    """Write a policy with these criteria in addition to the verdict; JSON is YAML."""
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
    """The folder of a run and the verdict on it.

    Args:
        folder: created for the run.
        weights: the content of the checkpoint.
        source: state of the source code.
        data: digest of the training data.
        runtime: versions of the libraries.
        file: name of the checkpoint.
        library: the library that the model is built with.
    """

    def __init__(  # noqa: PLR0913 - one keyword per fact about the run
        self,
        folder: Path,
        weights: bytes,
        source: SourceState = SourceState(  # noqa: B008 - immutable
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
        training_run = TrainingRun(
            run_id=folder.name,
            config={"seed": 0},
            data_digest=data,
            determinism={"seed": "0"},
            attempts=[attempt],
            finished=now,
            library=library,
        )
        document = provenance.statement(checkpoint, training_run)
        provenance.write(document, folder / "provenance.json")

    def scored(self, right: Sequence[bool], **changes: Any) -> Predictions:
        """Return predictions of the run's model that are correct where `right` is true."""
        config = hashlib.sha256((self.folder / "config.yaml").read_bytes()).hexdigest()
        digests = {"checkpoint_digest": self.checkpoint, "config_digest": config}
        return scored(right, **{"data_digest": self.data, **digests, **changes})

    def judge(self, rules: Policy, against: "Run | None" = None) -> Verdict:
        """Judge the run and write the verdict."""
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

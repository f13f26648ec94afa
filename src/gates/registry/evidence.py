"""Whether the files of a run fit together: each is about the others, and says what they say.

What can be computed is computed, and what one file says of another is compared. What none of them
can prove, such as the machine that a model was trained on, is left to an attestation
(docs/registry.md).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gates.configuration import parse_yaml, read_bytes
from gates.errors import GateInputError
from gates.evaluation.predictions import open_predictions
from gates.evidence import provenance
from gates.files import sha256
from gates.registry.files import CONFIG, PREDICTIONS, PROVENANCE
from gates.verdicts.verdict import read_verdict

_CLOCKS_DIFFER = timedelta(minutes=5)


def facts(run: Path, verdict: Path) -> dict[str, str]:
    """Return what is noted of a version: what made it, by the files in `run` and its verdict.

    Raises:
        GateError: a file cannot be read, or does not fit the others.
    """
    statement = provenance.read_of_run(run)
    checkpoint, found = provenance.subject_digest(statement), provenance.facts(statement)
    _check_finished(statement, run / PROVENANCE)
    _check_config(run, statement)
    _check_predictions(run, statement, found["data"])
    _check_verdict(run, verdict, checkpoint, found["data"])
    return {
        "model_version": provenance.model_version(statement),
        "checkpoint": checkpoint,
        "data": found["data"],
        "commit": found.get("source", ""),
        "dirty": str(provenance.is_dirty(statement)).lower(),
    }


def _check_finished(statement: dict[str, Any], file: Path) -> None:
    finished = datetime.fromisoformat(provenance.metadata(statement)["finishedOn"])
    if finished > datetime.now(UTC) + _CLOCKS_DIFFER:
        msg = f"{file}: says that the run ends at {finished}, which is yet to come; correct the "
        msg += "clock of the machine that trains"
        raise GateInputError(msg)


def _check_config(run: Path, statement: dict[str, Any]) -> None:
    """Refuse a configuration that is not the one of the provenance."""
    file = run / CONFIG
    if parse_yaml(read_bytes(file), where=str(file)) != provenance.config_of(statement):
        msg = f"{file}: is another configuration than {run / PROVENANCE} has; one of them was "
        msg += "changed: train again"
        raise GateInputError(msg)


def _check_predictions(run: Path, statement: dict[str, Any], data: str) -> None:
    """Refuse predictions of another checkpoint, configuration or data, or that can be changed."""
    file = run / PREDICTIONS
    predictions = open_predictions(file)
    expected = {
        "data": (data, PROVENANCE, "score the held-out part of the run's own data"),
        "checkpoint": (
            provenance.subject_digest(statement),
            provenance.checkpoint_name(statement, run / PROVENANCE),
            "write it anew",
        ),
        "config": (sha256(run / CONFIG), CONFIG, "write it anew"),
    }
    for what, (digest, where, advice) in expected.items():
        found = predictions.digests.get(what, "none")
        if found != digest:
            msg = f"{file}: is of another {what} ({found[:12]}) than {run / where} has "
            msg += f"({digest[:12]}); {advice}: python -m PROJECT.eval"
            raise GateInputError(msg)
    if not predictions.is_sealed:
        msg = (
            f"{file}: has no content_digest, so nothing shows that it is as it was written; write "
        )
        msg += "it anew: python -m PROJECT.eval"
        raise GateInputError(msg)


def _check_verdict(run: Path, file: Path, checkpoint: str, data: str) -> None:
    """Refuse a verdict of another gate, or on something else than what is in `run`."""
    verdict = read_verdict(file)
    if verdict.gate != "evaluation":
        msg = f"{file}: is a verdict of the gate {verdict.gate}; name one of evaluation"
        raise GateInputError(msg)
    expected = {"checkpoint": checkpoint, "data": data, "predictions": sha256(run / PREDICTIONS)}
    for name, digest in expected.items():
        found = verdict.evidence.get(name)
        if found != digest:
            msg = f"{file}: is a verdict on another {name} ({(found or 'none')[:12]}) than "
            msg += f"{run} has ({digest[:12]}); judge it: python -m PROJECT.eval"
            raise GateInputError(msg)

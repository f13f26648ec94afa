"""Whether the files of a run fit together: they name and agree with each other.

Values that can be computed are computed, and what one file states about another is compared. Facts
that no file can prove, such as the machine a model was trained on, need an attestation
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

_CLOCK_TOLERANCE = timedelta(minutes=5)


def facts(run: Path, verdict: Path) -> dict[str, str]:
    """Return the facts to register about a version, from the files in `run` and its verdict.

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
    if finished > datetime.now(UTC) + _CLOCK_TOLERANCE:
        msg = f"{file}: finishedOn is {finished}, in the future; correct the clock of the machine "
        msg += "that trains"
        raise GateInputError(msg)


def _check_config(run: Path, statement: dict[str, Any]) -> None:
    """Refuse a configuration that differs from the one in the provenance."""
    file = run / CONFIG
    if parse_yaml(read_bytes(file), where=str(file)) != provenance.config_of(statement):
        msg = f"{file}: differs from the configuration in {run / PROVENANCE}; one of them was "
        msg += "changed: train again"
        raise GateInputError(msg)


def _check_predictions(run: Path, statement: dict[str, Any], data: str) -> None:
    """Refuse unsealed predictions, and those of another checkpoint, configuration or data."""
    file = run / PREDICTIONS
    predictions = open_predictions(file)
    expected = {
        "data": (data, PROVENANCE, "score the held-out part of the run's own data"),
        "checkpoint": (
            provenance.subject_digest(statement),
            provenance.checkpoint_name(statement, run / PROVENANCE),
            "write it again",
        ),
        "config": (sha256(run / CONFIG), CONFIG, "write it again"),
    }
    for what, (digest, where, advice) in expected.items():
        found = predictions.digests.get(what, "none")
        if found != digest:
            msg = f"{file}: its {what} is {found[:12]}, but {run / where} has "
            msg += f"{digest[:12]}; {advice}: python -m PROJECT.eval"
            raise GateInputError(msg)
    if not predictions.is_sealed:
        msg = f"{file}: has no content_digest, so nothing shows that it is unchanged; write it "
        msg += "again: python -m PROJECT.eval"
        raise GateInputError(msg)


def _check_verdict(run: Path, file: Path, checkpoint: str, data: str) -> None:
    """Refuse a verdict of another gate, or on other files than those in `run`."""
    verdict = read_verdict(file)
    if verdict.gate != "evaluation":
        msg = f"{file}: is a verdict of the gate {verdict.gate}; expected one of evaluation"
        raise GateInputError(msg)
    expected = {"checkpoint": checkpoint, "data": data, "predictions": sha256(run / PREDICTIONS)}
    for name, digest in expected.items():
        found = verdict.evidence.get(name)
        if found != digest:
            msg = f"{file}: is a verdict on {name} {(found or 'none')[:12]}, but {run} has "
            msg += f"{digest[:12]}; judge the run: python -m PROJECT.eval"
            raise GateInputError(msg)

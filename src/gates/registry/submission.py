"""A run's outputs as they are registered: read, and checked to fit together."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from gates import provenance
from gates.errors import GateInputError
from gates.files import sha256
from gates.predictions import open_predictions
from gates.registry.files import (
    CHECKPOINT,
    PREDICTIONS,
    PROVENANCE,
    SBOM,
    VERDICT,
    Submission,
    data_verdict,
)
from gates.verdict import Verdict, read_verdict

_REQUIRED = (CHECKPOINT, PREDICTIONS, PROVENANCE, "config.yaml")
_GATE = re.compile(r"[a-z][a-z0-9-]*")  # it becomes part of a file's name
_WELCOME = ("metrics.jsonl", "model_card.md", "scores.json")


def read_submission(
    run: Path, verdict: Path, *, data_verdicts: Iterable[Path] = (), sbom: Path | None = None
) -> Submission:
    """Return what the folder of a run and the verdict on it amount to.

    Args:
        run: such as `outputs/RUN_ID`.
        verdict: of the evaluation gate.
        data_verdicts: of the gates on the data that the run learned from.
        sbom: the software that it was made with; None if there is no such list.

    Raises:
        GateInputError: something is missing, or is about another checkpoint or other data.
    """
    if not run.is_dir():
        msg = f"{run}: no such folder; name a run's, such as outputs/RUN_ID"
        raise GateInputError(msg)
    for name in _REQUIRED:
        if not (run / name).is_file():
            told = (
                "python -m my_project.eval" if name == PREDICTIONS else "python -m my_project.train"
            )
            msg = f"{run / name}: is missing; {told} writes it"
            raise GateInputError(msg)
    statement = provenance.read_of_run(run)
    checkpoint, facts = provenance.subject_digest(statement), provenance.facts(statement)
    _check_judged(run, verdict, checkpoint, facts["data"])
    files = {name: run / name for name in (*_REQUIRED, *_WELCOME) if (run / name).is_file()}
    files[VERDICT] = verdict
    for each in data_verdicts:
        name = data_verdict(_of_data(each, facts["data"]).gate)
        if name in files:
            msg = f"{each}: is a second verdict of its gate, after {files[name]}; name one of them"
            raise GateInputError(msg)
        files[name] = each
    if sbom is not None:
        _check_json(sbom)
        files[SBOM] = sbom
    digests = {name: sha256(file) for name, file in sorted(files.items())}
    return Submission(
        files=files,
        facts={
            "model_version": provenance.model_version(statement),
            "checkpoint": checkpoint,
            "data": facts["data"],
            "commit": facts.get("source", ""),
            "dirty": str(provenance.is_dirty(statement)).lower(),
            "files": json.dumps(digests, sort_keys=True, separators=(",", ":")),
        },
    )


def _check_judged(run: Path, file: Path, checkpoint: str, data: str) -> None:
    """Refuse predictions or a verdict of another checkpoint or on other data."""
    predictions = open_predictions(run / PREDICTIONS)
    if predictions.digests["data"] != data:
        msg = f"{run / PREDICTIONS}: is on other data ({predictions.digests['data'][:12]}) than "
        msg += f"{run / PROVENANCE} names ({data[:12]}); score the held-out part of the run's own "
        msg += "data: python -m my_project.eval, without --config"
        raise GateInputError(msg)
    if predictions.digests["checkpoint"] != checkpoint:
        msg = f"{run / PREDICTIONS}: is of another checkpoint "
        msg += f"({predictions.digests['checkpoint'][:12]}) than {run / CHECKPOINT} "
        msg += f"({checkpoint[:12]}); write it anew: python -m my_project.eval"
        raise GateInputError(msg)
    verdict = read_verdict(file)
    expected = {
        "checkpoint": checkpoint,
        "data": predictions.digests["data"],
        "predictions": sha256(run / PREDICTIONS),
    }
    if verdict.gate != "evaluation":
        msg = f"{file}: is a verdict of the gate {verdict.gate}; name one of evaluation"
        raise GateInputError(msg)
    for name, digest in expected.items():
        found = verdict.evidence.get(name)
        if found != digest:
            msg = f"{file}: is a verdict on another {name} ({(found or 'none')[:12]}) than "
            msg += f"{run} has ({digest[:12]}); judge it: python -m my_project.eval"
            raise GateInputError(msg)


def _of_data(file: Path, data: str) -> Verdict:
    verdict = read_verdict(file)
    if not _GATE.fullmatch(verdict.gate):
        msg = f"{file}: {verdict.gate!r} is no name of a gate; use letters, digits and dashes"
        raise GateInputError(msg)
    found = verdict.evidence.get("data")
    if found != data:
        msg = f"{file}: is a verdict on other data ({(found or 'none')[:12]}) than the run learned "
        msg += f"from ({data[:12]})"
        raise GateInputError(msg)
    return verdict


def _check_json(file: Path) -> None:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{file}: not readable as JSON ({error}); name an SBOM"
        raise GateInputError(msg) from error
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        msg = f"{file}: is no CycloneDX document; uv export --format cyclonedx1.5 writes one"
        raise GateInputError(msg)

"""Reads the outputs of a run for registration, and checks that they fit together."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.files import sha256
from gates.registry import evidence
from gates.registry.files import (
    ATTESTATION,
    BASELINE,
    CONFIG,
    PREDICTIONS,
    PROVENANCE,
    SBOM,
    VERDICT,
    Submission,
    data_verdict,
)
from gates.registry.repository import problem_of_sbom
from gates.verdicts.verdict import Verdict, read_verdict

_REQUIRED = (PREDICTIONS, PROVENANCE, CONFIG)
_GATE = re.compile(r"[a-z][a-z0-9-]*")  # becomes part of a file name
_OPTIONAL = (ATTESTATION, "metrics.jsonl", "model_card.md", "scores.json")


def read_submission(
    run: Path, verdict: Path, *, data_verdicts: Iterable[Path] = (), sbom: Path | None = None
) -> Submission:
    """Return the files and facts to register for a run.

    Args:
        run: the run's folder, such as `outputs/RUN_ID`.
        verdict: the evaluation gate's verdict on the run.
        data_verdicts: verdicts of data gates on the data the run was trained on.
        sbom: the bill of materials of the run's software; None if there is none.

    Raises:
        GateInputError: a file is missing, or is about another checkpoint or other data.
    """
    if not run.is_dir():
        msg = f"{run}: no such folder; name a run's folder, such as outputs/RUN_ID"
        raise GateInputError(msg)
    _check_present(run, _REQUIRED)
    statement = provenance.read(run / PROVENANCE)
    required = (*_REQUIRED, provenance.checkpoint_name(statement, run / PROVENANCE))
    _check_present(run, required)
    facts = evidence.facts(run, verdict)
    name = provenance.metadata(statement)["invocationId"]
    if name != run.resolve().name:
        msg = f"{run}: {run / PROVENANCE} describes another run ({name}); rename the folder to "
        msg += "the name of its run"
        raise GateInputError(msg)
    files = {name: run / name for name in (*required, *_OPTIONAL) if (run / name).is_file()}
    files[VERDICT] = verdict
    baseline = run / BASELINE
    against = read_verdict(verdict).evidence.get("baseline_predictions")
    if baseline.is_file() and sha256(baseline) == against:
        files[BASELINE] = baseline
    for each in data_verdicts:
        name = data_verdict(_read_data_verdict(each, facts["data"]).gate)
        if name in files:
            msg = f"{each}: is a second verdict of its gate, after {files[name]}; name only one"
            raise GateInputError(msg)
        files[name] = each
    if sbom is not None:
        problem = problem_of_sbom(sbom, statement)
        if problem:
            msg = f"{sbom}: {problem}"
            raise GateInputError(msg)
        files[SBOM] = sbom
    digests = {name: sha256(file) for name, file in sorted(files.items())}
    return Submission(
        files=files,
        facts={
            **facts,
            "files": json.dumps(digests, sort_keys=True, separators=(",", ":")),
        },
    )


def _check_present(run: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (run / name).is_file():
            command = "python -m PROJECT.eval" if name == PREDICTIONS else "python -m PROJECT.train"
            msg = f"{run / name}: is missing; {command} writes it"
            raise GateInputError(msg)


def _read_data_verdict(file: Path, data: str) -> Verdict:
    verdict = read_verdict(file)
    if not _GATE.fullmatch(verdict.gate):
        msg = f"{file}: {verdict.gate!r} is not a gate name; use lower case, digits and dashes"
        raise GateInputError(msg)
    found = verdict.evidence.get("data")
    if found != data:
        msg = f"{file}: is a verdict on data {(found or 'none')[:12]}, but the run was trained on "
        msg += f"{data[:12]}"
        raise GateInputError(msg)
    return verdict

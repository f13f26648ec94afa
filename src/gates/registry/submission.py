"""A run's outputs as they are registered: read, and checked to fit together."""

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
_GATE = re.compile(r"[a-z][a-z0-9-]*")  # it becomes part of a file's name
_WELCOME = (ATTESTATION, "metrics.jsonl", "model_card.md", "scores.json")


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
    _check_there(run, _REQUIRED)
    statement = provenance.read(run / PROVENANCE)
    required = (*_REQUIRED, provenance.checkpoint_name(statement, run / PROVENANCE))
    _check_there(run, required)
    facts = evidence.facts(run, verdict)
    name = provenance.metadata(statement)["invocationId"]
    if name != run.resolve().name:
        msg = f"{run}: is the folder of another run than {run / PROVENANCE} describes ({name}); "
        msg += "give the folder its name again"
        raise GateInputError(msg)
    files = {name: run / name for name in (*required, *_WELCOME) if (run / name).is_file()}
    files[VERDICT] = verdict
    baseline = run / BASELINE
    against = read_verdict(verdict).evidence.get("baseline_predictions")
    if baseline.is_file() and sha256(baseline) == against:
        files[BASELINE] = baseline
    for each in data_verdicts:
        name = data_verdict(_of_data(each, facts["data"]).gate)
        if name in files:
            msg = f"{each}: is a second verdict of its gate, after {files[name]}; name one of them"
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


def _check_there(run: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (run / name).is_file():
            told = "python -m PROJECT.eval" if name == PREDICTIONS else "python -m PROJECT.train"
            msg = f"{run / name}: is missing; {told} writes it"
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

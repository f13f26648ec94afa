"""The files of a version, by the names that they have in the registry."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gates.evidence.statement import is_checkpoint

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
PREDICTIONS, BASELINE = "predictions.parquet", "baseline_predictions.parquet"
VERDICT, SBOM, ATTESTATION = "verdict.json", "sbom.cdx.json", "attestation.json"
VERDICT_START = "verdict"  # of the names of all verdicts, those on the data included


def data_verdict(gate: str) -> str:
    """Return the name under which the verdict of a gate on the data is kept."""
    return f"verdict-{gate}.json"


def checkpoint_name(names: Iterable[str]) -> str | None:
    """Return the one of `names` that is a checkpoint, such as checkpoint.pt.

    None unless there is exactly one.
    """
    found = [name for name in names if is_checkpoint(name)]
    return found[0] if len(found) == 1 else None


def identity(files: Mapping[str, str]) -> dict[str, str]:
    """Return what two versions that are the same have in common.

    The checkpoint and the verdicts, and whether there is an SBOM and an attestation: each is
    written anew with another time in it. What else lies in a run's folder makes no other version.

    Args:
        files: SHA-256 of each, by name.
    """
    kept = {name: digest for name, digest in files.items() if name.startswith(VERDICT_START)}
    there = {name: str(name in files) for name in (SBOM, ATTESTATION)}
    checkpoint = checkpoint_name(files)
    return {**kept, "checkpoint": files[checkpoint] if checkpoint else "", **there}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to become a version.

    Args:
        files: by the names that they have in the registry.
        facts: what is noted of the version: digests, commit, model version.
    """

    files: dict[str, Path]
    facts: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each of the files, by name."""
        found: dict[str, str] = json.loads(self.facts["files"])
        return found

"""The files of a version and their names in the registry."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gates.evidence.statement import is_checkpoint

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
PREDICTIONS, BASELINE = "predictions.parquet", "baseline_predictions.parquet"
VERDICT, SBOM, ATTESTATION = "verdict.json", "sbom.cdx.json", "attestation.json"
VERDICT_START = "verdict"  # prefix of the name of every verdict, including those on data


def data_verdict(gate: str) -> str:
    """Return the file name of a data gate's verdict."""
    return f"verdict-{gate}.json"


def checkpoint_name(names: Iterable[str]) -> str | None:
    """Return the name that is a checkpoint's, such as checkpoint.pt; None unless exactly one is."""
    found = [name for name in names if is_checkpoint(name)]
    return found[0] if len(found) == 1 else None


def identity(files: Mapping[str, str]) -> dict[str, str]:
    """Return what identifies a version: two with an equal identity are the same version.

    It consists of the digests of the checkpoint and the verdicts, and whether there is an SBOM and
    an attestation; those two contain a time, so their digests differ each time they are written.
    Other files in a run's folder do not matter.

    Args:
        files: SHA-256 of each file, by name.
    """
    verdicts = {name: digest for name, digest in files.items() if name.startswith(VERDICT_START)}
    present = {name: str(name in files) for name in (SBOM, ATTESTATION)}
    checkpoint = checkpoint_name(files)
    return {**verdicts, "checkpoint": files[checkpoint] if checkpoint else "", **present}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The files and facts that are registered as a version.

    Args:
        files: local path of each file, by its name in the registry.
        facts: what is recorded about the version: digests, commit, model version.
    """

    files: dict[str, Path]
    facts: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by name."""
        found: dict[str, str] = json.loads(self.facts["files"])
        return found

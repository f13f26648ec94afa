"""The files of a version, by the names that they have in the registry."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT, PREDICTIONS, PROVENANCE = "checkpoint.pt", "predictions.parquet", "provenance.json"
VERDICT, SBOM = "verdict.json", "sbom.cdx.json"


def data_verdict(gate: str) -> str:
    """Return the name under which the verdict of a gate on the data is kept."""
    return f"verdict-{gate}.json"


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
    def checkpoint(self) -> str:
        """SHA-256 of the checkpoint: two versions of one checkpoint are one."""
        return self.facts["checkpoint"]

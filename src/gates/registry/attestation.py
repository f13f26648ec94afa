"""Attestations: a workflow's signature on the files it produced, checked with gh.

Files alone cannot prove, for example, which machine a model was trained on; somebody must vouch
for it. GitHub does: actions/attest signs the digests of a checkpoint and its provenance as the
output of one workflow in one repository.

https://docs.github.com/en/actions/concepts/security/artifact-attestations
"""

import shutil
import subprocess
from pathlib import Path

from gates.errors import GateInputError, describe
from gates.evidence import provenance
from gates.registry.files import ATTESTATION, PROVENANCE

_TIMEOUT_S = 120


def problem_of_attestation(folder: Path, workflow: str) -> str | None:
    """Return what is wrong with the attestation of a checkpoint and its provenance, if anything.

    Args:
        folder: contains both files, and the attestation as a Sigstore bundle.
        workflow: the workflow that must have signed, as OWNER/NAME/.github/workflows/FILE.

    Raises:
        GateInputError: the attestation cannot be checked on this machine.
    """
    if not (folder / ATTESTATION).is_file():
        return f"it has no {ATTESTATION}; {workflow} writes one"
    program = shutil.which("gh")
    if program is None:
        msg = "gh, GitHub's command line, is needed to check attestations; install it"
        raise GateInputError(msg)
    signer = ["--repo", "/".join(workflow.split("/")[:2]), "--signer-workflow", workflow]
    bundle = ["--bundle", str(folder / ATTESTATION)]
    statement = folder / PROVENANCE
    checkpoint = provenance.checkpoint_name(provenance.read(statement), statement)
    for name in (checkpoint, PROVENANCE):
        command = [program, "attestation", "verify", str(folder / name), *signer, *bundle]
        try:
            result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"gh attestation verify: {describe(error)}"
            raise GateInputError(msg) from error
        if result.returncode:
            lines = result.stderr.decode(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "gh gave no reason")
            return f"{name} is not attested by {workflow}: {reason.strip()}"
    return None

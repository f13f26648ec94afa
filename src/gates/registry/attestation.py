"""Attestations: a workflow's signature under the files that it made, checked by gh.

What no file can prove, such as the machine that a model was trained on, somebody must vouch for.
GitHub does: actions/attest signs the digests of a checkpoint and its provenance as made by one
workflow of one repository.

https://docs.github.com/en/actions/concepts/security/artifact-attestations
"""

import shutil
import subprocess
from pathlib import Path

from gates.errors import GateInputError, said_by
from gates.evidence import provenance
from gates.registry.files import ATTESTATION, PROVENANCE

_SECONDS = 120


def problem_of_attestation(folder: Path, workflow: str) -> str | None:
    """Return what is wrong with the attestation of a checkpoint and its provenance, if anything.

    Args:
        folder: holds both, and the attestation as a Sigstore bundle.
        workflow: that must have signed, as OWNER/NAME/.github/workflows/FILE.

    Raises:
        GateInputError: it cannot be checked on this machine.
    """
    if not (folder / ATTESTATION).is_file():
        return f"there is no {ATTESTATION} among its files; {workflow} writes one"
    program = shutil.which("gh")
    if program is None:
        msg = "gh, GitHub's command line, checks attestations and is missing; install it"
        raise GateInputError(msg)
    signer = ["--repo", "/".join(workflow.split("/")[:2]), "--signer-workflow", workflow]
    bundle = ["--bundle", str(folder / ATTESTATION)]
    statement = folder / PROVENANCE
    checkpoint = provenance.checkpoint_name(provenance.read(statement), statement)
    for name in (checkpoint, PROVENANCE):
        command = [program, "attestation", "verify", str(folder / name), *signer, *bundle]
        try:
            asked = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"gh attestation verify: {said_by(error)}"
            raise GateInputError(msg) from error
        if asked.returncode:
            lines = asked.stderr.decode(errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "gh does not say why")
            return f"{name} is not attested by {workflow}: {said.strip()}"
    return None

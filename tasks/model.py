"""Sessions that train the model: the same bits twice."""

import hashlib
import tempfile
from pathlib import Path

import nox

from tasks import environment
from tasks.catalogue import session
from tasks.project import ROOT


@session(tiers=["nightly", "release"], timeout_minutes=30, inputs=["src", "configs"])
def reproduce(session: nox.Session) -> None:
    """Train twice in separate processes and compare the checkpoints bit for bit.

    The two differ in their hash seed and their working directory. After --: arguments of
    my_project.train; without any, --config configs/base.yaml.
    """
    folder = environment.prepare_default_cell()
    arguments = session.posargs or ["--config", str(ROOT / "configs" / "base.yaml")]
    digests = [
        _train_somewhere(session, folder, hash_seed, [_absolute(word) for word in arguments])
        for hash_seed in ("1", "2")
    ]
    if digests[0] != digests[1]:
        session.error(f"not reproducible: sha256 {digests[0]} and {digests[1]}")
    session.log(f"Reproduced: both checkpoints have sha256 {digests[0]}")


def _train_somewhere(
    session: nox.Session, folder: Path, hash_seed: str, arguments: list[str]
) -> str:
    """Train in a directory of its own; return the SHA-256 of the checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        with session.chdir(place):
            train = ["-m", "my_project.train", *arguments, "--outputs", "outputs"]
            environment.run(session, folder, "python", *train, PYTHONHASHSEED=hash_seed)
        checkpoint = Path(place, "outputs", "latest.pt")
        return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def _absolute(word: str) -> str:
    """Return `word` as a path that holds in any directory, if it is a file of the repository."""
    return str(ROOT / word) if (ROOT / word).is_file() else word

"""Sessions about the model: train it, judge it, and train it again to the same bits."""

import hashlib
import json
import tempfile
from pathlib import Path

import nox

from tasks.catalogue import session
from tasks.environments import environment
from tasks.project import LATEST, PROJECT, ROOT, VERDICT

_BASE = ("--config", "configs/base.yaml")
_LATEST = ROOT / LATEST
_VERDICT = ROOT / VERDICT
_GAVE_A_VERDICT = (0, 1, 3)


@session(tiers=["nightly", "release"], timeout_minutes=60, inputs=["src", "configs"], in_image=True)
def train(session: nox.Session) -> None:
    """Train the reference model; outputs/latest.pt then points to its checkpoint.

    After --: arguments of python -m PROJECT.train; without any, --config configs/base.yaml. A
    release adds --require-clean-tree.
    """
    folder = environment.prepare_default_cell()
    _train(session, folder, *(session.posargs or _BASE))


@session(tiers=["nightly", "release"], timeout_minutes=60, inputs=["src", "configs"], in_image=True)
def evaluate(session: nox.Session) -> None:
    """Judge outputs/latest.pt on held-out data and write its model card; trains one if needed.

    Fails unless the verdict, in artifacts/verdicts/evaluation.json, is a pass. After --: how to
    judge, as in --baseline models:/NAME@production --fail-if-worse-than 0.02; without any, what
    [tool.tasks] in the project's pyproject.toml names as the baseline.
    """
    folder = environment.prepare_default_cell()
    if not _LATEST.exists():
        session.log("There is no outputs/latest.pt yet: training one")
        _train(session, folder, *_BASE)
    # One of an earlier run must not be taken for this one's.
    _VERDICT.unlink(missing_ok=True)
    judge = [
        "-m",
        f"{PROJECT.package}.eval",
        "--checkpoint",
        str(_LATEST),
        "--report",
        str(_VERDICT),
    ]
    how = session.posargs or PROJECT.baseline
    environment.run(session, folder, "python", *judge, *how, success_codes=_GAVE_A_VERDICT)
    if not _VERDICT.exists():
        session.error(f"{PROJECT.package}.eval ended without a verdict; its message is above")
    # By the link: a run's name is made of the time, and no two machines would do the same.
    card = ["-m", "gates", "card", "--run", str(_LATEST)]
    environment.run(session, folder, "python", *card, "--verdict", str(_VERDICT))
    # Nox makes 1 of every exit code but 0: what the gate said is in its file.
    verdict = json.loads(_VERDICT.read_text(encoding="utf-8"))
    if verdict["outcome"] != "pass":
        session.error(f"{verdict['outcome']}: {verdict['reason']}")


@session(tiers=["nightly", "release"], timeout_minutes=30, inputs=["src", "configs"], in_image=True)
def reproduce(session: nox.Session) -> None:
    """Train twice in separate processes and compare the checkpoints bit for bit.

    The two differ in their hash seed and their working directory. After --: arguments of
    python -m PROJECT.train; without any, --config configs/base.yaml.
    """
    folder = environment.prepare_default_cell()
    arguments = [_absolute(word) for word in session.posargs or _BASE]
    digests = [_train_somewhere(session, folder, hash_seed, arguments) for hash_seed in ("1", "2")]
    if digests[0] != digests[1]:
        session.error(f"not reproducible: sha256 {digests[0]} and {digests[1]}")
    session.log(f"Reproduced: both checkpoints have sha256 {digests[0]}")


def _train(session: nox.Session, folder: Path, *arguments: str) -> None:
    environment.run(session, folder, "python", "-m", f"{PROJECT.package}.train", *arguments)


def _train_somewhere(
    session: nox.Session, folder: Path, hash_seed: str, arguments: list[str]
) -> str:
    """Train in a directory of its own; return the SHA-256 of the checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        with session.chdir(place):
            train = ["-m", f"{PROJECT.package}.train", *arguments, "--outputs", "outputs"]
            environment.run(session, folder, "python", *train, PYTHONHASHSEED=hash_seed)
        checkpoint = Path(place, "outputs", "latest.pt")
        return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def _absolute(word: str) -> str:
    """Return `word` as a path that holds in any directory, if it is a file of the repository."""
    return str(ROOT / word) if (ROOT / word).is_file() else word

"""Sessions about the model: train it, evaluate it, and check that training is reproducible."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nox

from tasks.catalogue import of_projects, session
from tasks.environments import environment
from tasks.project import ROOT, Project

_VERDICT_CODES = (0, 1, 3)


@session(timeout_minutes=60, parts=of_projects("nightly", "release", in_image=True), each="PROJECT")
def train(session: nox.Session, project: Project) -> None:
    """Train each project's model; outputs/latest.* then points to its checkpoint.

    After --: arguments of python -m PROJECT.train. The default is --config configs/base.yaml, or
    configs/PROJECT/base.yaml. A release adds --require-clean-tree.
    """
    folder = environment.prepare_default_cell()
    _train(session, folder, project, session.posargs)


@session(timeout_minutes=60, parts=of_projects("nightly", "release", in_image=True), each="PROJECT")
def evaluate(session: nox.Session, project: Project) -> None:
    """Evaluate the newest checkpoint on held-out data and write its card; train one if needed.

    Fails unless the verdict, in artifacts/verdicts/evaluation.json, is a pass. After --: arguments
    of python -m PROJECT.eval, such as --baseline models:/NAME@production --fail-if-worse-than 0.02;
    the default is the baseline in [tool.tasks] of the project's pyproject.toml.
    """
    folder = environment.prepare_default_cell()
    latest, report = ROOT / project.latest, ROOT / project.verdict
    if not latest.exists():
        session.log(f"There is no {project.latest} yet: training one")
        _train(session, folder, project, [])
    # A report of an earlier run must not be mistaken for this run's.
    report.unlink(missing_ok=True)
    judge = ["-m", f"{project.package}.eval", "--checkpoint", str(latest), "--report", str(report)]
    options = session.posargs or project.baseline
    environment.run(session, folder, "python", *judge, *options, success_codes=_VERDICT_CODES)
    if not report.exists():
        session.error(f"{project.package}.eval ended without a verdict; its message is above")
    # Use the link: a run's name contains the time, so the command would differ between machines.
    card = ["-m", "gates", "card", "--run", str(latest), "--settings", project.card]
    environment.run(session, folder, "python", *card, "--verdict", str(report))
    # Nox turns every exit code except 0 into 1, so read the verdict from the report.
    verdict = json.loads(report.read_text(encoding="utf-8"))
    if verdict["outcome"] != "pass":
        session.error(f"{verdict['outcome']}: {verdict['reason']}")


@session(timeout_minutes=30, parts=of_projects("nightly", "release", in_image=True), each="PROJECT")
def reproduce(session: nox.Session, project: Project) -> None:
    """Train twice in separate processes and compare the checkpoints bit for bit.

    The two runs differ in hash seed and working directory. After --: arguments of
    python -m PROJECT.train, as for the session train.
    """
    folder = environment.prepare_default_cell()
    digests = [_train_somewhere(session, folder, project, seed) for seed in ("1", "2")]
    if digests[0] != digests[1]:
        session.error(f"not reproducible: sha256 {digests[0]} and {digests[1]}")
    session.log(f"Reproduced: both checkpoints have sha256 {digests[0]}")


def _train(session: nox.Session, folder: Path, project: Project, given: Sequence[str]) -> None:
    words = ["-m", f"{project.package}.train", *_arguments(project, given)]
    environment.run(session, folder, "python", *words)


def _arguments(project: Project, given: Sequence[str]) -> list[str]:
    """Return the given arguments of `train`, with the default configuration if none is named."""
    names = {word.partition("=")[0] for word in given}
    if names & {"--config", "--from-provenance", "--help", "-h"}:
        return [*given]
    return ["--config", f"{project.configs}/base.yaml", *given]


def _train_somewhere(session: nox.Session, folder: Path, project: Project, seed: str) -> str:
    """Train in a temporary directory; return the SHA-256 of the checkpoint."""
    arguments = [_absolute(word) for word in _arguments(project, session.posargs)]
    with tempfile.TemporaryDirectory() as place:
        with session.chdir(place):
            words = ["-m", f"{project.package}.train", *arguments, "--outputs", "outputs"]
            environment.run(session, folder, "python", *words, PYTHONHASHSEED=seed)
        checkpoint = Path(place, "outputs", Path(project.latest).name)
        return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def _absolute(word: str) -> str:
    """Return `word` as an absolute path if it is a file of the repository."""
    return str(ROOT / word) if (ROOT / word).is_file() else word

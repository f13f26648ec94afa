"""Runs training: from a configuration to a folder with a checkpoint and its provenance."""

import contextlib
import importlib.util
import re
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

from gates.errors import GateInputError
from gates.evidence import provenance
from training import config as configs
from training import lock, progress
from training.config import Config
from training.group import Group
from training.project import Project
from training.run import Run, check_same

# The files in a run's folder besides its snapshots and its checkpoint.
_FILES = ("config.yaml", "metrics.jsonl", "provenance.json")


@dataclass(frozen=True, kw_only=True)
class Request(Generic[Config]):
    """A request to train.

    Args:
        project: the project to train.
        config: everything the run depends on besides the code.
        outputs: where to create the run's folder.
        run_id: the folder's name; None for date and time.
        resume: whether to continue the run with that ID, if there is one.
        needs_clean_tree: whether to refuse uncommitted source.
        where: where the configuration comes from, for error messages.
    """

    project: Project[Config, Any]
    config: Config
    outputs: Path
    run_id: str | None = None
    resume: bool = False
    needs_clean_tree: bool = False
    where: str = "configuration"


def train(request: Request[Config]) -> Path:
    """Train and return the checkpoint in the run's folder.

    Processes started by `torchrun` train together. Once the checkpoint is complete, the link
    `latest` beside the folder, with the checkpoint's suffix, points to it.

    Raises:
        GateError: the request or the data is invalid, the loss is not finite, or a file cannot be
            written.
    """
    project, method = request.project, request.project.method
    _check(request)
    code = _source_folder(project.settings.package)
    source = provenance.source_state(code)
    missing = provenance.why_no_commit(code) if source.commit is None else None
    if request.needs_clean_tree and not source.is_clean:
        reason = missing or "see git status"
        msg = f"the source does not match a commit ({reason}); commit it, then train"
        raise GateInputError(msg)
    started = datetime.now(UTC)
    flags = method.configure(request.config)
    with (
        method.joined(request.config) as group,
        progress.shown(silent=not group.is_first) as display,
    ):
        if missing:
            display.warn(f"the provenance of this run will name no commit: {missing}")
        folder = request.outputs / group.on_first_process(lambda: _run_id(request))
        checkpoint = folder / method.checkpoint
        if (folder / "provenance.json").exists():
            group.on_first_process(lambda: lock.remove_stale(folder))
            display.line(f"{checkpoint}: this run has already ended; nothing to do")
            return checkpoint
        examples, validation = _examples(request, group)
        run = Run(
            project=project.settings.package,
            config=request.config,
            folder=folder,
            checkpoint=checkpoint,
            training=examples,
            validation=validation,
            group=group,
            display=display,
            source=source,
            started=started,
            needs_clean_tree=request.needs_clean_tree,
        )
        with contextlib.ExitStack() as stack:
            held = lock.locked(folder, may_exist=request.resume, say=display.line)
            group.on_first_process(lambda: stack.enter_context(held))
            group.on_first_process(lambda: _remove_temporary_files(run))
            # A separate function frees the model before the process group is destroyed.
            _complete(run, project, flags)
        display.line(f"checkpoint: {checkpoint}")
    return checkpoint


def _source_folder(package: str) -> Path:
    """Return the folder of the project's source, to ask git for its commit."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"{package}: not installed in {sys.executable}; activate .venv (nox -s dev makes it)"
        raise GateInputError(msg)
    return Path(spec.origin).parent


def _check(request: Request[Config]) -> None:
    run_id = request.run_id
    method = request.project.method
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    latest = latest_of(method.checkpoint)
    if run_id is not None and (run_id == latest or not re.fullmatch(name, run_id)):
        msg = f"--run-id {run_id}: use up to 100 letters, digits, dots, dashes and underscores, "
        msg += f"but not {latest}"
        raise GateInputError(msg)
    if request.resume and not method.can_resume:
        msg = f"--resume: {request.project.settings.package} trains in one call and keeps no "
        msg += "snapshots; start a new run"
        raise GateInputError(msg)
    method.check(run_id=run_id, resume=request.resume)
    if run_id is None and request.resume:
        msg = "--resume needs --run-id: the ID of the run to continue"
        raise GateInputError(msg)


def latest_of(checkpoint: str) -> str:
    """Return the name of the link to the newest checkpoint: latest.pt for checkpoint.pt."""
    return f"latest{Path(checkpoint).suffix}"


def _run_id(request: Request[Config]) -> str:
    """Return the name of the run's folder, after checking that the run may use it."""
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_id = request.run_id or now
    folder = request.outputs / run_id
    if folder.exists() and not request.resume:
        msg = f"{folder}: this run exists already; choose another --run-id, or add --resume"
        raise GateInputError(msg)
    written = folder / "config.yaml"
    files = (*_FILES, request.project.method.checkpoint)
    if written.exists():
        kind = request.project.settings.config
        check_same(configs.load(kind, written), request.config, written)
    elif folder.exists() and set(folder.iterdir()) - {
        folder / lock.NAME,
        *_temporary_files(folder, files),
    }:
        msg = f"{folder}: not the folder of a run: it has no config.yaml; choose another --run-id"
        raise GateInputError(msg)
    return run_id


def _examples(request: Request[Config], group: Group) -> tuple[Any, Any]:
    """Return the training and validation splits; the first process prepares them for all."""
    loaded: list[Any] = []

    def load() -> None:
        examples = request.project.examples
        loaded.append(examples(request.config, "train", request.where))
        loaded.append(examples(request.config, "validation", request.where))

    group.on_first_process(load)
    if not group.is_first:
        load()
    training_split, validation_split = loaded
    return training_split, validation_split


def _remove_temporary_files(run: Run[Config, Any]) -> None:
    for file in _temporary_files(run.folder, (*_FILES, run.checkpoint.name)):
        file.unlink(missing_ok=True)


def _temporary_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the temporary files of atomic writes that were cut short by a kill."""
    return [file for name in names for file in folder.glob(f".{name}.*") if file.is_file()]


def _complete(run: Run[Config, Any], project: Project[Config, Any], flags: dict[str, str]) -> None:
    """Train to the end; write the checkpoint, its provenance and the link to it."""
    attempts = project.method.train(run)
    description = provenance.TrainingRun(
        run_id=run.folder.name,
        config=run.config.model_dump(),
        data_digest=run.training.data_digest,
        determinism=flags,
        attempts=attempts,
        finished=datetime.now(UTC),
        library=project.method.library,
        package=project.settings.package,
    )
    run.group.on_first_process(lambda: _finish(run, description))


def _finish(run: Run[Config, Any], description: provenance.TrainingRun) -> None:
    point_latest(run.folder.parent, run.checkpoint)
    # Written last, because it marks the run as ended: after a kill, a resume repeats these steps.
    statement = provenance.statement(run.checkpoint, description)
    provenance.write(statement, run.folder / "provenance.json")


def point_latest(outputs: Path, checkpoint: Path) -> None:
    """Point the link to the newest checkpoint at `checkpoint`; replaces the old link atomically."""
    link = outputs / latest_of(checkpoint.name)
    new = outputs / f".{link.name}.{checkpoint.parent.name}"
    new.unlink(missing_ok=True)
    new.symlink_to(checkpoint.relative_to(outputs))
    new.replace(link)

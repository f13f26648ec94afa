"""One run: from a configuration to a folder with a checkpoint and all that explains it."""

import contextlib
import importlib.util
import re
import secrets
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

# What a run leaves in its folder besides its snapshots and its checkpoint.
_FILES = ("config.yaml", "metrics.jsonl", "provenance.json")


@dataclass(frozen=True, kw_only=True)
class Request(Generic[Config]):
    """What a run is asked to do.

    Args:
        project: what is trained.
        config: all that it depends on besides the code.
        outputs: where its folder is made.
        run_id: the folder's name; None for date and time.
        resume: whether to go on with the run of that name, if there is one.
        needs_clean_tree: whether to refuse source that no commit describes.
        where: what an error names as the place of the configuration.
    """

    project: Project[Config, Any]
    config: Config
    outputs: Path
    run_id: str | None = None
    resume: bool = False
    needs_clean_tree: bool = False
    where: str = "configuration"


def train(request: Request[Config]) -> Path:
    """Train what is asked for and return the checkpoint that is left in the run's folder.

    Started in several processes by `torchrun`, these train together. `latest` beside the folder,
    with the ending of the checkpoint, points to that once it is whole.

    Raises:
        GateError: the request or the data is not right, the loss is not finite, or a file
            cannot be written.
    """
    project, method = request.project, request.project.method
    _check(request)
    code = _code_of(project.settings.package)
    source = provenance.source_state(code)
    missing = provenance.why_no_commit(code) if source.commit is None else None
    if request.needs_clean_tree and not source.is_clean:
        reason = missing or "git status shows it"
        msg = f"the source is not what a commit says ({reason}); commit it, then train"
        raise GateInputError(msg)
    started = datetime.now(UTC)
    flags = method.configure(request.config)
    with (
        method.joined(request.config) as group,
        progress.shown(silent=not group.is_first) as display,
    ):
        if missing:
            display.warn(f"the provenance of this run will name no commit: {missing}")
        folder = request.outputs / group.first_does(lambda: _run_id(request))
        checkpoint = folder / method.checkpoint
        if (folder / "provenance.json").exists():
            group.first_does(lambda: lock.drop_left_over(folder))
            display.line(f"{checkpoint}: this run has ended already; nothing to do")
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
            group.first_does(lambda: stack.enter_context(held))
            group.first_does(lambda: _drop_stand_ins(run))
            # In a function of its own: no model is left when the processes part.
            _complete(run, project, flags)
        display.line(f"checkpoint: {checkpoint}")
    return checkpoint


def _code_of(package: str) -> Path:
    """Return the folder of the project's source, by which git knows the commit."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"{package}: cannot be imported"
        raise GateInputError(msg)
    return Path(spec.origin).parent


def _check(request: Request[Config]) -> None:
    run_id = request.run_id
    method = request.project.method
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    latest = latest_of(method.checkpoint)
    if run_id is not None and (run_id == latest or not re.fullmatch(name, run_id)):
        msg = f"--run-id {run_id}: use up to 100 letters, digits, dots, dashes and underscores, "
        msg += f"and not {latest}"
        raise GateInputError(msg)
    if request.resume and not method.can_resume:
        msg = f"--resume: {request.project.settings.package} trains in one go and keeps no "
        msg += "snapshots; start a new run"
        raise GateInputError(msg)
    method.check(run_id=run_id, resume=request.resume)
    if run_id is None and request.resume:
        msg = "--resume needs --run-id: the name of the run to go on with"
        raise GateInputError(msg)


def latest_of(checkpoint: str) -> str:
    """Return the name of the link to the newest checkpoint: latest.pt for checkpoint.pt."""
    return f"latest{Path(checkpoint).suffix}"


def _run_id(request: Request[Config]) -> str:
    """Return the name of the run's folder, which may be used."""
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_id = request.run_id or now
    folder = request.outputs / run_id
    if folder.exists() and not request.resume:
        msg = f"{folder}: there is a run of that name; choose another --run-id, or add --resume"
        raise GateInputError(msg)
    written = folder / "config.yaml"
    files = (*_FILES, request.project.method.checkpoint)
    if written.exists():
        kind = request.project.settings.config
        check_same(configs.load(kind, written), request.config, written)
    elif folder.exists() and set(folder.iterdir()) - {
        folder / lock.NAME,
        *_stand_ins(folder, files),
    }:
        msg = f"{folder}: has no config.yaml, with which every run begins; choose another --run-id"
        raise GateInputError(msg)
    return run_id


def _examples(request: Request[Config], group: Group) -> tuple[Any, Any]:
    """Return the training and the validation split; the first process prepares them for all."""
    loaded: list[Any] = []

    def load() -> None:
        examples = request.project.examples
        loaded.append(examples(request.config, "train", request.where))
        loaded.append(examples(request.config, "validation", request.where))

    group.first_does(load)
    if not group.is_first:
        load()
    training_split, validation_split = loaded
    return training_split, validation_split


def _drop_stand_ins(run: Run[Config, Any]) -> None:
    for stand_in in _stand_ins(run.folder, (*_FILES, run.checkpoint.name)):
        stand_in.unlink(missing_ok=True)


def _stand_ins(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files in `folder` that had not yet taken their place when a run was killed."""
    return [file for name in names for file in folder.glob(f".{name}.*") if file.is_file()]


def _complete(run: Run[Config, Any], project: Project[Config, Any], flags: dict[str, str]) -> None:
    """Train to the end, and leave the checkpoint with its provenance and the link to it."""
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
    run.group.first_does(lambda: _finish(run, description))


def _finish(run: Run[Config, Any], description: provenance.TrainingRun) -> None:
    point_latest(run.folder.parent, run.checkpoint)
    # Last, as it says that the run has ended: a kill before it lets a resume do this again.
    statement = provenance.statement(run.checkpoint, description)
    provenance.write(statement, run.folder / "provenance.json")


def point_latest(outputs: Path, checkpoint: Path) -> None:
    """Make the link to the newest checkpoint lead to `checkpoint`, never missing in between."""
    link = outputs / latest_of(checkpoint.name)
    new = outputs / f".{link.name}.{checkpoint.parent.name}"
    new.unlink(missing_ok=True)
    new.symlink_to(checkpoint.relative_to(outputs))
    new.replace(link)

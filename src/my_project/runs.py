"""One run: from a configuration to a folder with a checkpoint and all that explains it."""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from gates.configuration import flat
from gates.errors import ConfigError, GateInputError
from gates.evidence import provenance
from gates.evidence.provenance import Attempt, SourceState
from gates.files import atomic_write, write_text
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data, determinism, evaluation, lock, progress, snapshots, tracking, training
from my_project.checkpoint import Checkpoint
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.processes import Processes, joined, number_in
from my_project.progress import Display
from my_project.snapshots import Origin
from my_project.tracking import Track
from my_project.training import StepReport, Trainer

# What a run leaves in its folder besides its snapshots.
_FILES = ("config.yaml", "metrics.jsonl", "checkpoint.pt", "provenance.json")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked to do.

    Args:
        config: all that it depends on besides the code.
        outputs: where its folder is made.
        run_id: the folder's name; None for date and time.
        resume: whether to go on with the run of that name, if there is one.
        needs_clean_tree: whether to refuse source that no commit describes.
        where: what an error names as the place of the configuration.
    """

    config: RunConfig
    outputs: Path
    run_id: str | None = None
    resume: bool = False
    needs_clean_tree: bool = False
    where: str = "configuration"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run under way, as one of its processes sees it."""

    request: Request
    folder: Path
    examples: Examples
    validation: Examples
    processes: Processes
    display: Display
    source: SourceState
    started: datetime
    flags: Mapping[str, str]

    @property
    def config(self) -> RunConfig:
        return self.request.config

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    @property
    def steps(self) -> int:
        train = self.config.train
        return training.batches_in(len(self.examples), train.batch_size) * train.epochs


def train(request: Request) -> Path:
    """Train what is asked for and return the checkpoint that is left in the run's folder.

    Started in several processes by `torchrun`, these train together. `latest.pt` beside the
    folder points to the checkpoint once it is whole.

    Raises:
        GateError: the request or the data is not right, the loss is not finite, or a file
            cannot be written.
    """
    _check(request)
    source = provenance.source_state(Path(__file__).parent)
    missing = provenance.why_no_commit(Path(__file__).parent) if source.commit is None else None
    if request.needs_clean_tree and not source.is_clean:
        reason = missing or "git status shows it"
        msg = f"the source is not what a commit says ({reason}); commit it, then train"
        raise GateInputError(msg)
    started = datetime.now(UTC)
    flags = determinism.configure(request.config)
    with (
        joined(request.config.train) as processes,
        progress.shown(silent=not processes.is_first) as display,
    ):
        if missing:
            display.warn(f"the provenance of this run will name no commit: {missing}")
        folder = request.outputs / processes.first_does(lambda: _run_id(request))
        checkpoint = folder / "checkpoint.pt"
        if (folder / "provenance.json").exists():
            display.line(f"{checkpoint}: this run has ended already; nothing to do")
            return checkpoint
        examples, validation = _examples(request, processes)
        run = _Run(
            request=request,
            folder=folder,
            examples=examples,
            validation=validation,
            processes=processes,
            display=display,
            source=source,
            started=started,
            flags=flags,
        )
        with contextlib.ExitStack() as stack:
            held = lock.locked(folder, may_exist=request.resume, say=display.line)
            processes.first_does(lambda: stack.enter_context(held))
            # In a function of its own: no model is left when the processes part (see joined).
            _complete(run)
        display.line(f"checkpoint: {checkpoint}")
    return checkpoint


def _check(request: Request) -> None:
    run_id = request.run_id
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    if run_id is not None and (run_id == "latest.pt" or not re.fullmatch(name, run_id)):
        msg = f"--run-id {run_id}: use up to 100 letters, digits, dots, dashes and underscores, "
        msg += "and not latest.pt"
        raise GateInputError(msg)
    may_restart = number_in("TORCHELASTIC_MAX_RESTARTS", 0) > 0
    # Not by itself: a worker that is started again could not tell its own run from another's.
    if may_restart and not (run_id and request.resume):
        msg = "torchrun --max-restarts needs --run-id and --resume: with which run a worker goes on"
        raise GateInputError(msg)
    if run_id is None and request.resume:
        msg = "--resume needs --run-id: the name of the run to go on with"
        raise GateInputError(msg)


def _run_id(request: Request) -> str:
    """Return the name of the run's folder, which may be used."""
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_id = request.run_id or now
    folder = request.outputs / run_id
    if folder.exists() and not request.resume:
        msg = f"{folder}: there is a run of that name; choose another --run-id, or add --resume"
        raise GateInputError(msg)
    written = folder / "config.yaml"
    if written.exists():
        _check_same(configs.load(written), request.config, written)
    elif folder.exists() and set(folder.iterdir()) - {folder / lock.NAME, *_stand_ins(folder)}:
        msg = f"{folder}: has no config.yaml, with which every run begins; choose another --run-id"
        raise GateInputError(msg)
    return run_id


def _check_same(before: RunConfig, now: RunConfig, where: Path) -> None:
    asked = flat(now.model_dump())
    changes = [
        f"{key} is {value} in this run, and {asked[key]} is asked for"
        for key, value in flat(before.model_dump()).items()
        if value != asked[key]
    ]
    if changes:
        msg = f"{where}: {'; '.join(changes)}; resume with the same configuration, or choose "
        msg += "another --run-id"
        raise ConfigError(msg)


def _examples(request: Request, processes: Processes) -> tuple[Examples, Examples]:
    """Return the training and the validation split; the first process prepares them for all."""
    loaded: list[Examples] = []

    def load() -> None:
        loaded.append(data.examples_of(request.config, "train", where=request.where))
        loaded.append(data.examples_of(request.config, "validation", where=request.where))

    processes.first_does(load)
    if not processes.is_first:
        load()
    training_split, validation_split = loaded
    return training_split, validation_split


def _complete(run: _Run) -> None:
    """Train from wherever the run is to its end, and leave its checkpoint."""
    trainer, attempts = _trainer(run)
    tracking_config = run.config if run.processes.is_first else None
    with tracking.tracked(tracking_config, run.folder.name, run.display.line) as track:
        _fit(trainer, run, attempts, track)
    weights = _whole_weights(trainer.model)
    description = provenance.TrainingRun(
        run_id=run.folder.name,
        config=run.config.model_dump(),
        data_digest=run.examples.data_digest,
        determinism=run.flags,
        attempts=attempts,
        finished=datetime.now(UTC),
    )
    run.processes.first_does(lambda: _finish(run, weights, description))


def _trainer(run: _Run) -> tuple[Trainer, list[Attempt]]:
    """Return a trainer at its first step, or where the newest whole snapshot is.

    And the attempts of the run up to this one.
    """
    config, processes = run.config, run.processes
    model = training.new_model(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainer = training.new_trainer(processes.distribute(model, config.train), config.train)
    run.display.line(
        f"{run.folder}: {len(run.examples):,} training examples, {parameters:,} parameters, "
        f"{processes.count} x {processes.device.type}"
    )
    snapshot, earlier = processes.first_does(lambda: _start(run))
    if snapshot is not None:
        snapshots.restore(snapshot, trainer, processes)
        run.display.line(f"resumed at step {trainer.step} from {snapshot}")
    now = Attempt(
        first_step=trainer.step,
        started=run.started,
        source=run.source,
        runtime=_runtime(processes),
    )
    return trainer, [*earlier, now]


def _start(run: _Run) -> tuple[Path | None, Sequence[Attempt]]:
    """Make the run's folder ready.

    Returns:
        The snapshot to go on from, if there is one, and the attempts in which it was reached.
    """
    newest = snapshots.newest_whole(run.snapshots, say=run.display.line)
    # What a kill has left: files that had not yet taken their place, old snapshots.
    snapshots.drop_remains(run.snapshots, newest)
    for stand_in in _stand_ins(run.folder):
        stand_in.unlink(missing_ok=True)
    if newest is None:
        with atomic_write(run.folder / "config.yaml") as stream:
            stream.write(configs.dump(run.config))
        return None, ()
    origin = snapshots.origin_of(newest)
    _check_origin(origin, newest, run)
    return newest, origin.attempts


def _stand_ins(folder: Path) -> list[Path]:
    """Return the files in `folder` that had not yet taken their place when a run was killed."""
    return [file for name in _FILES for file in folder.glob(f".{name}.*") if file.is_file()]


def _check_origin(origin: Origin, snapshot: Path, run: _Run) -> None:
    """Refuse a snapshot of another configuration, other data or, for a release, other source."""
    _check_same(origin.config, run.config, snapshot)
    if origin.data_digest != run.examples.data_digest:
        msg = f"{snapshot}: made from other data than data.source has now; start a new run"
        raise GateInputError(msg)
    sources = [attempt.source for attempt in origin.attempts]
    if run.request.needs_clean_tree and any(source != run.source for source in sources):
        msg = f"{snapshot}: made from other source than the commit that is checked out, which "
        msg += "alone would not say what this run was; start a new run"
        raise GateInputError(msg)


def _fit(trainer: Trainer, run: _Run, attempts: Sequence[Attempt], track: Track) -> None:
    """Train to the end, with metrics and snapshots on the way."""
    config = run.config.train
    started = time.monotonic()
    is_first = run.processes.is_first
    metrics = None
    if is_first:
        metrics = _Metrics(run.folder / "metrics.jsonl", trainer.step, run.display.line)
    origin = Origin(config=run.config, data_digest=run.examples.data_digest, attempts=attempts)

    def record(report: StepReport) -> None:
        line: dict[str, Any] = asdict(report)
        if report.ends_epoch:
            line["validation_accuracy"] = evaluation.accuracy(
                trainer.model, run.validation, run.processes
            )
        run.display.step(report.step, run.steps, report.loss)
        if metrics:
            metrics.write({**line, "seconds": round(time.monotonic() - started, 3)})
            track(line)
            if report.ends_epoch:
                run.display.line(
                    f"epoch {report.epoch}/{config.epochs}: "
                    f"loss {metrics.mean_loss(report.epoch):.4f}, "
                    f"validation accuracy {line['validation_accuracy']:.4f}"
                )
        if report.step % config.snapshot_every == 0 and report.step < run.steps:
            snapshots.save(run.snapshots, trainer, origin, run.processes)

    training.fit(
        trainer,
        run.examples,
        run.config,
        processes=run.processes,
        on_step=record,
    )


def _finish(run: _Run, weights: dict[str, Tensor], description: provenance.TrainingRun) -> None:
    """Leave the checkpoint with its provenance, and point `latest.pt` to it."""
    ended = Checkpoint(
        weights=weights, config=run.config, data_digest=run.examples.data_digest, step=run.steps
    )
    checkpoint = run.folder / "checkpoint.pt"
    checkpoints.save(ended, checkpoint)
    checkpoints.point_latest(run.folder.parent, checkpoint)
    # Last, as it says that the run has ended: a kill before it lets a resume do this again.
    statement = provenance.statement(checkpoint, description)
    provenance.write(statement, run.folder / "provenance.json")


class _Metrics:
    """The lines of metrics.jsonl, one for each step."""

    def __init__(self, file: Path, step: int, say: Callable[[str], None]) -> None:
        """Go on after `step`: what an interrupted run wrote beyond its snapshot is dropped.

        Lines that are lost or damaged are told of with `say`: training does not depend on them.
        """
        kept = _lines_until(step, file) if step else []
        if len(kept) < step:
            say(f"{file}: {step - len(kept)} of the first {step} lines are lost or damaged")
        write_text(file, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = file
        self._lines = kept

    def write(self, line: dict[str, Any]) -> None:
        """Add the line of a step."""
        self._lines.append(line)
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            msg = f"{self._file}: cannot be written ({error.strerror}); make room, then --resume"
            raise GateInputError(msg) from error

    def mean_loss(self, epoch: int) -> float:
        """Return the mean loss over the batches of `epoch`, those before a resume included."""
        losses: list[float] = [line["loss"] for line in self._lines if line["epoch"] == epoch]
        return sum(losses) / len(losses)


def _lines_until(step: int, file: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl up to that of `step`, all that can be read."""
    try:
        texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    lines = {}
    for text in texts:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            if line["step"] <= step and {"epoch", "loss"} <= line.keys():
                lines[line["step"]] = line
    return list(lines.values())


def _whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights on the CPU, gathered from the processes that share them."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))


def _runtime(processes: Processes) -> dict[str, str]:
    """Return the versions and the hardware that can change a result."""
    is_gpu = processes.device.type == "cuda"
    return {
        **provenance.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": str(torch.version.cuda) if is_gpu else "not used",
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "processes": str(processes.count),
    }

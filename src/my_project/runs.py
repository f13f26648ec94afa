"""One run: from a configuration to a folder with a checkpoint and all that explains it."""

import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from gates import provenance
from gates.configuration import flat
from gates.errors import ConfigError, GateInputError
from gates.files import atomic_write, write_text
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data, determinism, evaluation, progress, snapshots, tracking, training
from my_project.checkpoint import Checkpoint
from my_project.config import RunConfig
from my_project.data import Examples
from my_project.processes import Processes, joined
from my_project.progress import Display
from my_project.tracking import Track
from my_project.training import StepReport, Trainer


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

    config: RunConfig
    folder: Path
    examples: Examples
    validation: Examples
    processes: Processes
    display: Display

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
    if request.needs_clean_tree and not source.is_clean:
        msg = "the source is not what a commit says (git status shows it); commit it, then train"
        raise GateInputError(msg)
    started = datetime.now(UTC)
    flags = determinism.configure(request.config)
    with (
        joined(request.config.train) as processes,
        progress.shown(silent=not processes.is_first) as display,
    ):
        folder = request.outputs / (processes.from_first(_run_id(request, processes)) or "")
        checkpoint = folder / "checkpoint.pt"
        if (folder / "provenance.json").exists():
            display.line(f"{checkpoint}: this run has ended already; nothing to do")
            return checkpoint
        examples, validation = _examples(request, processes)
        run = _Run(
            config=request.config,
            folder=folder,
            examples=examples,
            validation=validation,
            processes=processes,
            display=display,
        )
        trainer = _trainer(run)
        tracking_config = run.config if processes.is_first else None
        with tracking.tracked(tracking_config, folder.name, display.line) as track:
            _fit(trainer, run, track)
        weights = _whole_weights(trainer.model)
        if processes.is_first:
            description = provenance.TrainingRun(
                run_id=folder.name,
                config=request.config.model_dump(),
                data_digest=examples.data_digest,
                runtime=_runtime(processes),
                determinism=flags,
                started=started,
                finished=datetime.now(UTC),
            )
            _finish(run, weights, description, source)
        processes.wait()
        display.line(f"checkpoint: {checkpoint}")
    return checkpoint


def _check(request: Request) -> None:
    run_id = request.run_id
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    if run_id is not None and (run_id == "latest.pt" or not re.fullmatch(name, run_id)):
        msg = f"--run-id {run_id}: use up to 100 letters, digits, dots, dashes and underscores, "
        msg += "and not latest.pt"
        raise GateInputError(msg)
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if run_id is None and (request.resume or may_restart):
        reason = "--resume" if request.resume else "torchrun --max-restarts"
        msg = f"{reason} needs --run-id: the name of the run to go on with"
        raise GateInputError(msg)


def _run_id(request: Request, processes: Processes) -> str | None:
    """Return the name of the run's folder; check in the first process that it may be used."""
    if not processes.is_first:
        return None
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_id = request.run_id or now
    folder = request.outputs / run_id
    # A worker that torchrun starts again goes on where its run was.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if folder.exists() and not (request.resume or restarted):
        msg = f"{folder}: there is a run of that name; choose another --run-id, or add --resume"
        raise GateInputError(msg)
    written = folder / "config.yaml"
    if written.exists():
        _check_same(configs.load(written), request.config, written)
    return run_id


def _check_same(before: RunConfig, now: RunConfig, where: Path) -> None:
    for key, value in flat(before.model_dump()).items():
        asked = flat(now.model_dump())[key]
        if value != asked:
            msg = f"{where}: {key} is {value} in this run, and {asked} is asked for; "
            msg += "resume with the same configuration, or choose another --run-id"
            raise ConfigError(msg)


def _examples(request: Request, processes: Processes) -> tuple[Examples, Examples]:
    """Return the training and the validation split; the first process prepares them for all."""
    if not processes.is_first:
        processes.wait()
    training_split = data.examples_of(request.config, "train", where=request.where)
    validation_split = data.examples_of(request.config, "validation", where=request.where)
    if processes.is_first:
        processes.wait()
    return training_split, validation_split


def _trainer(run: _Run) -> Trainer:
    """Return a trainer at its first step, or where the newest whole snapshot is."""
    config, processes = run.config, run.processes
    model = training.new_model(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainer = training.new_trainer(processes.distribute(model, config.train), config.train)
    run.display.line(
        f"{run.folder}: {len(run.examples):,} training examples, {parameters:,} parameters, "
        f"{processes.count} x {processes.device.type}"
    )
    newest = None
    if processes.is_first:
        newest = snapshots.newest_whole(run.snapshots, say=run.display.line)
        _drop_remains(run, newest)
    snapshot = processes.from_first(str(newest) if newest else None)
    if snapshot:
        _resume(trainer, Path(snapshot), run)
    elif processes.is_first:
        with atomic_write(run.folder / "config.yaml") as stream:
            stream.write(configs.dump(config))
    return trainer


def _drop_remains(run: _Run, newest: Path | None) -> None:
    """Drop what a kill has left: files that had not yet taken their place, old snapshots."""
    snapshots.drop_remains(run.snapshots, newest)
    for stand_in in run.folder.glob(".*"):
        stand_in.unlink(missing_ok=True)


def _resume(trainer: Trainer, snapshot: Path, run: _Run) -> None:
    if snapshots.manifest_of(snapshot)["data_digest"] != run.examples.data_digest:
        msg = f"{snapshot}: made from other data than data.source has now; start a new run"
        raise GateInputError(msg)
    snapshots.restore(snapshot, trainer, run.processes)
    run.display.line(f"resumed at step {trainer.step} from {snapshot}")


def _fit(trainer: Trainer, run: _Run, track: Track) -> None:
    """Train to the end, with metrics and snapshots on the way."""
    config = run.config.train
    started = time.monotonic()
    is_first = run.processes.is_first
    metrics = _Metrics(run.folder / "metrics.jsonl", trainer.step) if is_first else None

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
            digest = run.examples.data_digest
            snapshots.save(run.snapshots, trainer, run.config, digest, run.processes)

    training.fit(
        trainer,
        run.examples,
        run.config,
        processes=run.processes,
        on_step=record,
    )


def _finish(
    run: _Run,
    weights: dict[str, Tensor],
    description: provenance.TrainingRun,
    source: provenance.SourceState,
) -> None:
    """Leave the checkpoint with its provenance, and point `latest.pt` to it."""
    ended = Checkpoint(
        weights=weights, config=run.config, data_digest=run.examples.data_digest, step=run.steps
    )
    checkpoint = run.folder / "checkpoint.pt"
    checkpoints.save(ended, checkpoint)
    checkpoints.point_latest(run.folder.parent, checkpoint)
    # Last, as it says that the run has ended: a kill before it lets a resume do this again.
    statement = provenance.statement(checkpoint, description, source)
    provenance.write(statement, run.folder / "provenance.json")


class _Metrics:
    """The lines of metrics.jsonl, one for each step."""

    def __init__(self, file: Path, step: int) -> None:
        """Go on after `step`: what an interrupted run wrote beyond its snapshot is dropped."""
        kept = []
        if step and file.exists():
            kept = file.read_text(encoding="utf-8").splitlines()[:step]
        write_text(file, "".join(f"{line}\n" for line in kept))
        self._file = file
        self._lines: list[dict[str, Any]] = [json.loads(line) for line in kept]

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

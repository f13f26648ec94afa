"""Trains a run with PyTorch, on one process or many, with snapshots to resume from."""

import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.evidence.provenance import Attempt
from training import tracking
from training.metrics import Metrics
from training.project import Method
from training.pytorch import checkpoint as checkpoints
from training.pytorch import determinism, loop, snapshots
from training.pytorch.checkpoint import Checkpoint
from training.pytorch.learner import Learner, TensorExamples, Torch
from training.pytorch.loop import StepReport, Trainer
from training.pytorch.outputs import mean_score
from training.pytorch.processes import Processes, joined, number_in
from training.pytorch.selection import Selection
from training.pytorch.snapshots import Origin
from training.run import Run, check_same
from training.tracking import Track


@dataclass(frozen=True)
class TorchMethod(Method[Torch, TensorExamples], Generic[Torch]):
    """Trains with the PyTorch loop.

    Args:
        kind: the project's configuration class.
        learner: the model, the loss, the score and the augmentation.
    """

    kind: type[Torch]
    learner: Learner[Torch]
    library: str = "pytorch"
    checkpoint: str = "checkpoint.pt"
    can_resume: bool = True

    def check(self, *, run_id: str | None, resume: bool) -> None:
        """Refuse restarts by torchrun unless the run to continue is named."""
        may_restart = number_in("TORCHELASTIC_MAX_RESTARTS", 0) > 0
        # Not implied: a restarted worker cannot tell which run is its own.
        if may_restart and not (run_id and resume):
            msg = "torchrun --max-restarts needs --run-id and --resume: the run that a restarted "
            msg += "worker continues"
            raise GateInputError(msg)

    def joined(self, config: Torch) -> AbstractContextManager[Processes]:
        """Join the process group of `torchrun` while the block runs."""
        return joined(config.train)

    def configure(self, config: Torch) -> dict[str, str]:
        """Seed every generator and choose the algorithms."""
        return determinism.configure(config)

    def train(self, run: Run[Torch, TensorExamples]) -> list[Attempt]:
        """Train the run to its end, write its checkpoint and return its attempts."""
        active = _ActiveRun(run, self.learner, self.kind)
        trainer, attempts = active.start()
        is_first = run.group.is_first
        with tracking.tracked(
            run.config if is_first else None, run.project, run.folder.name, run.display.line
        ) as track:
            active.fit(trainer, attempts, track)
        step = active.select(trainer)
        weights = _full_weights(trainer.model)
        run.group.on_first_process(lambda: active.save(weights, step))
        return attempts

    def config_of(self, checkpoint: Path) -> Torch:
        """Return the configuration that the model in `checkpoint` was trained with."""
        return self.load(checkpoint).config

    def load(self, checkpoint: Path) -> Checkpoint[Torch]:
        """Return the checkpoint in a file.

        Raises:
            CheckpointError: the file cannot be read, or belongs to another project.
        """
        return checkpoints.load(checkpoint, self.kind, self.learner.build_model)

    def model(self, checkpoint: Checkpoint[Torch]) -> nn.Module:
        """Return the model in a checkpoint, on the CPU, ready to predict."""
        return checkpoint.model(self.learner.build_model)


@dataclass(frozen=True)
class _ActiveRun(Generic[Torch]):
    """A run in progress."""

    run: Run[Torch, TensorExamples]
    learner: Learner[Torch]
    kind: type[Torch]

    @property
    def processes(self) -> Processes:
        return cast("Processes", self.run.group)

    @property
    def snapshots(self) -> Path:
        return self.run.folder / "snapshots"

    @property
    def steps_per_epoch(self) -> int:
        return loop.batches_in(len(self.run.training), self.run.config.train.batch_size)

    @property
    def steps(self) -> int:
        """Number of steps in all epochs; training that stops early takes fewer."""
        return self.steps_per_epoch * self.run.config.train.epochs

    @property
    def metric(self) -> str:
        return f"validation_{self.learner.score.name}"

    def start(self) -> tuple[Trainer, list[Attempt]]:
        """Return a trainer, restored from the newest intact snapshot if there is one.

        Also return the attempts at the run so far, including this one.
        """
        run, processes = self.run, self.processes
        model = loop.new_model(self.learner, run.config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        train = run.config.train
        trainer = loop.new_trainer(processes.distribute(model, train), train)
        trainer.selection = Selection.of(train, self.learner.score.better, trainer.model)
        run.display.line(
            f"{run.folder}: {len(run.training):,} training examples, {parameters:,} parameters, "
            f"{processes.count} x {processes.device.type}"
        )
        snapshot, earlier = processes.on_first_process(self._newest)
        if snapshot is not None:
            snapshots.restore(snapshot, trainer, processes)
            run.display.line(f"resumed at step {trainer.step} from {snapshot}")
        current = run.attempt(trainer.step, _runtime(processes))
        return trainer, [*earlier, current]

    def _newest(self) -> tuple[Path | None, list[Attempt]]:
        """Return the snapshot to continue from, if any, and the attempts that led to it."""
        newest = snapshots.newest_intact(self.snapshots, say=self.run.display.line)
        # A killed process may have left unfinished snapshots and old ones.
        snapshots.remove_leftovers(self.snapshots, newest)
        if newest is None:
            self.run.begin()
            return None, []
        origin = snapshots.origin_of(newest, self.kind)
        self._check_origin(origin, newest)
        return newest, [*origin.attempts]

    def _check_origin(self, origin: Origin, snapshot: Path) -> None:
        """Refuse a snapshot with another configuration, other data or, for a release, source."""
        run = self.run
        check_same(origin.config, run.config, snapshot)
        if origin.data_digest != run.training.data_digest:
            msg = f"{snapshot}: made with different data than data.source has now; start a new run"
            raise GateInputError(msg)
        sources = [attempt.source for attempt in origin.attempts]
        if run.needs_clean_tree and any(source != run.source for source in sources):
            msg = f"{snapshot}: made with different source than the current commit, so this commit "
            msg += "alone would not describe the run; start a new run"
            raise GateInputError(msg)

    def fit(self, trainer: Trainer, attempts: list[Attempt], track: Track) -> None:
        """Train to the end or until early stopping, and write metrics and snapshots."""
        run, processes, config = self.run, self.processes, self.run.config.train
        score, metric = self.learner.score, self.metric
        started = time.monotonic()
        metrics = None
        if processes.is_first:
            metrics = Metrics(run.folder / "metrics.jsonl", trainer.step, run.display.line)
        origin = Origin(config=run.config, data_digest=run.training.data_digest, attempts=attempts)

        def record(report: StepReport) -> bool:
            line: dict[str, Any] = asdict(report)
            if report.ends_epoch:
                line[metric] = mean_score(
                    trainer.model,
                    run.validation,
                    score.of,
                    processes,
                    batch_size=score.batch_size,
                )
            run.display.step(report.step, self.steps, report.loss)
            if metrics:
                metrics.write({**line, "seconds": round(time.monotonic() - started, 3)})
                track(line)
                if report.ends_epoch:
                    run.display.line(
                        f"epoch {report.epoch}/{config.epochs}: "
                        f"loss {metrics.mean_loss(report.epoch):.4f}, "
                        f"{metric.replace('_', ' ')} {line[metric]:.4f}"
                    )
            stops = (
                report.ends_epoch
                and trainer.selection is not None
                and trainer.selection.stops_after(report.epoch, line[metric], trainer.model)
            )
            if stops:
                return True  # no snapshot: a resumed run would train beyond the early stop
            if report.step % config.snapshot_every == 0 and report.step < self.steps:
                snapshots.save(self.snapshots, trainer, origin, processes)
            return False

        loop.fit(
            trainer, run.training, run.config, self.learner, processes=processes, on_step=record
        )

    def select(self, trainer: Trainer) -> int:
        """Load the weights to keep into the model; return the step that produced them.

        Print a line if training stopped early, and if the best weights are kept.
        """
        selection, train, say = trainer.selection, self.run.config.train, self.run.display.line
        if selection is None:
            return trainer.step
        best = f"epoch {selection.epoch}, {self.metric.replace('_', ' ')} {selection.score:.4f}"
        if trainer.step < self.steps:
            ended = trainer.step // self.steps_per_epoch
            say(f"stopped after epoch {ended}/{train.epochs}: no improvement since {best}")
        if train.keep == "last":
            return trainer.step
        selection.load_best_into(trainer.model)
        say(f"the checkpoint holds {best}")
        return selection.epoch * self.steps_per_epoch

    def save(self, weights: dict[str, Tensor], step: int) -> None:
        """Write the checkpoint."""
        run = self.run
        checkpoint = Checkpoint(
            weights=weights,
            config=run.config,
            data_digest=run.training.data_digest,
            step=step,
        )
        checkpoints.save(checkpoint, run.checkpoint)


def _full_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights on the CPU, gathered from all processes."""
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

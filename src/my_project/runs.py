"""One run: from a configuration to a folder with a checkpoint, its configuration and metrics."""

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from gates.errors import GateInputError
from gates.files import atomic_write
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data, evaluation, training
from my_project.checkpoint import Checkpoint
from my_project.config import RunConfig


def start(outputs: Path, run_id: str | None = None) -> Path:
    """Return the folder of a new run, which does not exist yet.

    Raises:
        GateInputError: the name is not one for a folder, or taken.
    """
    if run_id is None:
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if run_id == "latest.pt" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        msg = f"--run-id {run_id}: use up to 100 letters, digits, dots, dashes and underscores, "
        msg += "and not latest.pt"
        raise GateInputError(msg)
    folder = outputs / run_id
    if folder.exists():
        msg = f"{folder}: there is a run of that name; choose another --run-id"
        raise GateInputError(msg)
    return folder


def train(config: RunConfig, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Train what `config` describes and return the checkpoint that is left in `folder`.

    `say` is given a line of progress at a time. `latest.pt` beside the folder points to the
    checkpoint once it is whole.

    Raises:
        GateError: the data is damaged, the loss is not finite, or a file cannot be written.
    """
    file = data.prepare(config.data)
    examples, validation = data.load(file, "train"), data.load(file, "validation")
    data.check_fits(config.model, where="configuration")
    model = training.new_model(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"{folder}: {len(examples):,} training examples, {parameters:,} parameters")
    with atomic_write(folder / "config.yaml") as stream:
        stream.write(configs.dump(config))
    started = time.monotonic()
    last_step = 0

    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as metrics:

        def record(report: training.EpochReport) -> None:
            nonlocal last_step
            last_step = report.step
            accuracy = evaluation.accuracy(model, validation)
            line = {
                **asdict(report),
                "validation_accuracy": accuracy,
                "seconds": round(time.monotonic() - started, 3),
            }
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            say(
                f"epoch {report.epoch}/{config.train.epochs}: loss {report.loss:.4f}, "
                f"validation accuracy {accuracy:.4f}"
            )

        training.fit(model, examples, config.train, seed=config.seed, on_epoch=record)

    checkpoint = Checkpoint(
        weights={name: weight.cpu() for name, weight in model.state_dict().items()},
        config=config,
        data_digest=examples.data_digest,
        step=last_step,
    )
    target = folder / "checkpoint.pt"
    checkpoints.save(checkpoint, target)
    checkpoints.point_latest(folder.parent, target)
    say(f"checkpoint: {target}")
    return target

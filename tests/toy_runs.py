"""Helpers to start, interrupt and inspect runs of the toy project."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training import runs
from training.metrics import Metrics

from toy.config import RunConfig
from toy.learner import METHOD

Request = runs.Request[RunConfig]


class StoppedError(Exception):
    """Ends a run as a kill would, but in this process."""


def changed(request: Request, section: str, **changes: object) -> Request:
    """Return `request` with other values in one section of its configuration."""
    values = getattr(request.config, section).model_copy(update=changes)
    return dataclasses.replace(request, config=request.config.model_copy(update={section: values}))


def resumed(request: Request) -> Request:
    return dataclasses.replace(request, resume=True)


def train_until(request: Request, step: int) -> Path:
    """Train until metrics.jsonl has a line for `step`, then stop; return the run's folder."""
    write = Metrics.write

    def write_then_stop(metrics: Any, line: dict[str, Any]) -> None:
        write(metrics, line)
        if line["step"] == step:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Metrics, "write", write_then_stop)
        with pytest.raises(StoppedError):
            runs.train(request)
    return request.outputs / (request.run_id or "")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_seconds(folder: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if key != "seconds"} for line in lines_of(folder)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return METHOD.load(folder / "checkpoint.pt").weights


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

"""Trains with one contender, in a process of its own, and prints what came out as JSON.

python -m benchmarks.peers fabric --config configs/ci-tiny.yaml --threads 2 --warm-up 20
"""

import argparse
import importlib
import json
from pathlib import Path

import torch

from training import config as configs
from training.pytorch import determinism

from benchmarks.peers.work import Record, Work
from my_project import data
from my_project.config import RunConfig


def main() -> None:
    """Train and print."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    config = configs.load(RunConfig, options.config, [*options.overrides, "train.device=cpu"])
    examples = data.examples_of(config, "train", where=str(options.config))
    determinism.configure(config)
    work, record = Work(config=config, examples=examples), Record()
    importlib.import_module(f"benchmarks.peers.{options.contender}").train(work, record)
    _check(work, record, options.threads)
    found = {
        "rate": record.steps_per_second(options.warm_up),
        "cpu_ms": record.cpu_ms_per_step(options.warm_up),
        "losses": [float(loss) for loss in record.losses],
    }
    print(json.dumps(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train with one contender; print JSON.")
    parser.add_argument("contender", choices=["ours", "fabric", "trainer", "accelerate"])
    parser.add_argument("--config", type=Path, required=True, help="what to train")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="KEY=VALUE")
    parser.add_argument("--threads", type=int, required=True, help="of torch")
    parser.add_argument("--warm-up", type=int, required=True, help="first steps, not timed")
    return parser


def _check(work: Work, record: Record, threads: int) -> None:
    """Refuse a comparison with a contender that worked under other conditions."""
    conditions = {
        "steps": (len(record.losses), work.steps),
        "threads": (torch.get_num_threads(), threads),
        "deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            work.config.train.deterministic,
        ),
    }
    for name, (found, expected) in conditions.items():
        if found != expected:
            msg = f"{name}: {found} at the end, where {expected} was asked for"
            raise SystemExit(msg)


if __name__ == "__main__":
    main()

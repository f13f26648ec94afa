"""Helpers to start runs of my_project.train and inspect their results."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.project import ROOT
from tests.integration.driver import Job, Kind

DRIVER = Path(__file__).with_name("driver.py")
CONFIG = ROOT / "configs" / "ci-tiny.yaml"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended.

    Args:
        codes: exit code of each process, by rank; -N means killed by signal N.
        stdout: standard output of each process.
        stderr: standard error of each process.
        events: number of events that the last process counted; 0 if it was killed.
        changes: operations that changed files, by rank, if they were counted.
    """

    codes: list[int]
    stdout: list[str]
    stderr: list[str]
    events: int
    changes: list[list[str]]


@dataclass(frozen=True)
class Settings:
    """Configuration overrides of a test's runs, as passed with `--set`."""

    values: dict[str, Any] = field(default_factory=dict)

    def but(self, **values: Any) -> "Settings":
        """Return these settings with changes; `train__epochs` means train.epochs."""
        changed = {key.replace("__", "."): value for key, value in values.items()}
        return Settings({**self.values, **changed})

    def arguments(self) -> list[str]:
        sets = (f"{key}={json.dumps(value)}" for key, value in self.values.items())
        return ["--config", str(CONFIG), *(word for pair in sets for word in ("--set", pair))]


class Trainings:
    """The server that runs each training in new processes."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def close(self) -> None:
        self._server.communicate()

    def run(  # noqa: PLR0913 - the fields of a job
        self,
        settings: Settings,
        folder: Path,
        *more: str,
        processes: int = 1,
        counts: Kind = "steps",
        dies_at: int | None = None,
        noisy: bool = False,
        largest_file: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Train in `folder`/outputs/run unless `more` overrides it; see `Job` for the rest."""
        with tempfile.TemporaryDirectory() as logs:
            job = Job(
                arguments=[*settings.arguments(), *(more or ("--run-id", "run", "--resume"))],
                folder=str(folder),
                logs=logs,
                processes=processes,
                counts=counts,
                dies_at=dies_at,
                noisy=noisy,
                largest_file=largest_file,
                environment=environment or {},
            )
            return self._do(job)

    def _do(self, job: Job) -> Ended:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(job.to_json() + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        logs = Path(job.logs)
        counted = [_json(logs / f"events-{rank}.json") for rank in range(job.processes)]
        return Ended(
            codes=codes,
            stdout=[(logs / f"stdout-{rank}").read_text() for rank in range(job.processes)],
            stderr=[_errors(logs / f"stderr-{rank}") for rank in range(job.processes)],
            events=counted[-1].get("count", 0),
            changes=[events.get("names", []) for events in counted],
        )


def _json(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return document


def environment(**more: str) -> dict[str, str]:
    """Return a process's environment, with one thread to fix the order of summation."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def command(
    arguments: Sequence[str], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` in `folder`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def torchrun(processes: int, *options: str) -> list[str]:
    """Return Python arguments that run the following command in `processes` processes."""
    module = ["-m", "torch.distributed.run", "--standalone"]
    return [*module, "--nproc-per-node", str(processes), *options]


def run_folder(folder: Path) -> Path:
    return folder / "outputs" / "run"


def digest(folder: Path) -> str:
    """Return the SHA-256 of the checkpoint of the run started in `folder`."""
    return hashlib.sha256((run_folder(folder) / "checkpoint.pt").read_bytes()).hexdigest()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl of the run started in `folder`."""
    lines = (run_folder(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def files(folder: Path) -> list[str]:
    """Return the relative paths of everything below `folder`/outputs."""
    outputs = folder / "outputs"
    return sorted(str(file.relative_to(outputs)) for file in outputs.rglob("*"))


def _errors(file: Path) -> str:
    """Return a process's stderr without the warning that the driver has no git."""
    lines = file.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "will name no commit: git cannot be run" not in line)

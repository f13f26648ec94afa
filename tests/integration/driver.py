"""Runs my_project.train in processes that die where a test wants them to.

    python driver.py                  a server: jobs on stdin, answers on stdout, one per line
    torchrun … driver.py ARGUMENTS    a worker that kills itself at the optimiser step DIES_AT_STEP

The server imports torch once and forks for each job, so that a run takes a fraction of a second.
Nothing depends on timing: a process counts its own events and dies at a given one.
"""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["calls", "files", "steps"]

_TIMEOUT_SECONDS = 300  # a signal ends a process that hangs, and its test fails
_INPUTS_LOG = os.environ.get("OPENED_FILES_LOG", os.devnull)
_CHANGES = frozenset(
    ["os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"]
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the command.

    Args:
        arguments: arguments of my_project.train.
        folder: working directory.
        logs: a folder for the output and the event counts of each process.
        processes: how many processes train together.
        counts: the events to count: function calls, operations that change files (each is
            counted before it happens), or optimiser steps.
        dies_at: the event, from 1, at which the last process is killed, and the others with it.
        noisy: whether each step adds noise from every random generator to the weights. It stands
            in for dropout and augmentation, and reveals a generator whose state was lost.
        largest_file: bytes after which a write fails, as on a full disk.
        environment: variables added to the server's own.
    """

    arguments: list[str]
    folder: str
    logs: str
    processes: int = 1
    counts: Kind = "steps"
    dies_at: int | None = None
    noisy: bool = False
    largest_file: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class _Events:
    """Counts events and kills its own process at one of them."""

    def __init__(self, dies_at: int | None) -> None:
        self.dies_at = dies_at
        self.count = 0
        self.names: list[str] = []

    def happen(self) -> None:
        self.count += 1
        if self.count == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, kind: Kind) -> Callable[[], None]:
        """Start counting; return a function that stops it."""
        if kind == "calls":
            sys.setprofile(self._see_call)
        elif kind == "files":
            sys.addaudithook(self._see_audit)
        else:
            _after_each_step(lambda _: self.happen())
        return self._end

    def _see_call(self, _frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            self.happen()

    def _see_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGES
        if event == "open":  # path, mode, flags
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
            # With CHECK_INPUTS=1, every process writes a log of opened files.
            changes = writes and not str(arguments[0]).startswith((os.devnull, _INPUTS_LOG))
        if changes:
            self.names.append(f"{event} {arguments[0]}")
            self.happen()

    def _end(self) -> None:
        sys.setprofile(None)
        self.dies_at = None


def serve(jobs: Iterable[str]) -> None:
    """Run each job and print the exit codes of its processes; -N means killed by signal N."""
    # Everything that a run imports, some of it only at the first step.
    import torch._dynamo  # noqa: PLC0415

    from training import runs  # noqa: F401, PLC0415

    from my_project import train  # noqa: F401, PLC0415

    # OMP_NUM_THREADS sets this to 1. Do not call torch.set_num_threads: it makes a thread pool that
    # a forked process recreates on first use, and if two threads use it at the same time, one may
    # find no pool and abort (https://github.com/pytorch/pytorch/issues/178535).
    assert torch.get_num_threads() == 1, "the number of threads changes the order of summation"
    os.environ["PATH"] = ""  # no git: calling it takes longer than these runs
    for job in jobs:
        launcher = os.fork()
        if launcher == 0:
            codes = _launch(Job(**json.loads(job)))
            os.write(1, f"{json.dumps(codes)}\n".encode())
            os._exit(0)
        os.waitpid(launcher, 0)


def _launch(job: Job) -> list[int]:
    """Start the processes of a job as torchrun does; return their exit codes by rank."""
    reading, writing = os.pipe()
    ranks = {}
    for rank in range(job.processes):
        child = os.fork()
        if child == 0:
            os.close(writing)
            _run_as(job, rank, os.read(reading, 16).decode())
        ranks[child] = rank
    if job.processes > 1:
        # Documented, but not in its __all__.
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

        # After the forks, because it starts a thread. Port 0: the system picks a free port.
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        os.write(writing, b"".join(f"{store.port:16d}".encode() for _ in ranks))
    os.close(writing)
    codes = [0] * job.processes
    alive = set(ranks)
    while alive:
        child, status = os.wait()
        alive.discard(child)
        codes[ranks[child]] = os.waitstatus_to_exitcode(status)
        if codes[ranks[child]]:
            for other in alive:
                os.kill(other, signal.SIGKILL)
    return codes


def _run_as(job: Job, rank: int, port: str) -> None:
    """Run as the process of that rank; never returns."""
    code = 1
    try:
        code = _train(job, rank, port)
    except SystemExit as exiting:
        code = int(exiting.code or 0)
    except BaseException:  # noqa: BLE001 - a test reads the traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _train(job: Job, rank: int, port: str) -> int:
    from my_project.train import main  # noqa: PLC0415

    signal.alarm(_TIMEOUT_SECONDS)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        log = os.open(Path(job.logs, f"{name}-{rank}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, descriptor)
    os.chdir(job.folder)
    os.environ.update(job.environment)
    if job.processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(job.processes),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": port.strip(),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
    if job.noisy:
        _after_each_step(_add_noise)
    if job.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.largest_file, resource.RLIM_INFINITY))
    events = _Events(job.dies_at if rank == job.processes - 1 else None)
    end = events.watch(job.counts)
    code = main(job.arguments)
    end()
    result = {"count": events.count, "names": events.names}
    Path(job.logs, f"events-{rank}.json").write_text(json.dumps(result))
    return code


def _after_each_step(act: Callable[[Any], None]) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: PLC0415

    register_optimizer_step_post_hook(lambda optimizer, *_: act(optimizer))


def _add_noise(optimizer: Any) -> None:
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    with torch.no_grad():
        for group in optimizer.param_groups:
            for weights in group["params"]:
                share = random.random() + random.gauss() + np.random.rand() + np.random.randn()  # noqa: NPY002, S311
                weights.add_(torch.randn_like(weights), alpha=1e-3 * share)


def work(arguments: list[str]) -> int:
    """Train as a worker of torchrun; the last rank kills itself once."""
    from my_project.train import main  # noqa: PLC0415

    signal.alarm(_TIMEOUT_SECONDS)
    is_last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    if is_last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        _Events(int(os.environ["DIES_AT_STEP"])).watch("steps")
    return main(arguments)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(work(sys.argv[1:]))
    with contextlib.suppress(KeyboardInterrupt):
        serve(sys.stdin)

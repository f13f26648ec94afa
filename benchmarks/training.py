"""Compares the reference model and its training loop with their peers, in one run.

    python3 benchmarks/training.py [--rounds 5] [--seeds 5] [--only speed] [--quick]

Needs only a plain Python: it makes the locked environment with the peers first. Prints
Markdown tables. Speeds are medians and ratios of contenders that took turns (A B C D A B C D …),
each in a fresh process, as one figure alone says little on a shared machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.environments import environment  # noqa: E402

from benchmarks.report import spread  # noqa: E402 - the path is set above

OURS = "ours"
PEERS = {"fabric": "Lightning Fabric", "trainer": "Lightning Trainer", "accelerate": "Accelerate"}
PACKAGES = ("torch", "lightning", "accelerate", "scikit-learn")

TINY = ROOT / "configs" / "ci-tiny.yaml"
BASE = ROOT / "configs" / "base.yaml"

# The steps that are timed come after this many: the first allocate memory and fill caches.
WARM_UP = 20
# The losses of a contender that skips work, or does it in another order, are far off: a learning
# rate that is 1 % off moves them by 7e-4 (tests/unit/my_project/test_golden.py).
LARGEST_LOSS_DIFFERENCE = 1e-4
LARGEST_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is needed to measure.

    Args:
        python: the interpreter of the environment with the peers.
        variables: the environment variables of what it runs.
        folder: scratch space.
        threads: of torch, in every process.
        rounds: how often each contender has its turn.
    """

    python: Path
    variables: dict[str, str]
    folder: Path
    threads: int
    rounds: int

    @property
    def data(self) -> str:
        """The override that keeps the data in the scratch space."""
        return f"data.cache_dir={self.folder / 'data'}"

    def run(self, *arguments: str) -> str:
        """Run Python with `arguments`, and return what it printed."""
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=ROOT,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        # What the gate thinks of a model, 1 or 3, is not what is measured here.
        judged = (0, 1, 3) if "my_project.eval" in arguments else (0,)
        if done.returncode not in judged:
            msg = f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
            raise SystemExit(msg)
        return done.stdout


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a contender came to.

    Args:
        rate: steps per second, after the warm-up.
        cpu_ms: the processor's time for one of them, in milliseconds.
        losses: of each step, the warm-up included.
    """

    rate: float
    cpu_ms: float
    losses: list[float]


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    prepared = environment.prepare(environment.of_benchmarks(environment.default_cell()))
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            python=prepared / "bin" / "python",
            variables={**environment.isolated(prepared), **threads},
            folder=Path(folder),
            threads=options.threads,
            rounds=1 if options.quick else options.rounds,
        )
        _say(_surroundings(bench))
        short = ["train.epochs=1"] if options.quick else []
        if options.only in {None, "folds"}:
            _say(_folds(bench, short))
        if options.only in {None, "accuracy"}:
            _say(_accuracy(bench, range(1 if options.quick else options.seeds), short))
        if options.only in {None, "speed"}:
            for config, epochs in ((TINY, 10), (BASE, 8)):
                _say(_speed(bench, config, 2 if options.quick else epochs))
        if options.only in {None, "seconds"}:
            _say(_seconds_of_tiny(bench))
    _say(f"Load at the end: {os.getloadavg()[0]:.1f}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare the model and its training loop with their peers."
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="base models, seeds from 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of torch, in every process (default: %(default)s, the cores)",
    )
    parts = ["folds", "accuracy", "speed", "seconds"]
    parser.add_argument("--only", choices=parts, help="measure one part")
    parser.add_argument(
        "--quick", action="store_true", help="one short turn of each: shows that the script works"
    )
    return parser


def _surroundings(bench: Bench) -> str:
    """Return what the figures depend on besides the code."""
    code = (
        "import sys, importlib.metadata as m; from gates.evidence.provenance import machine;"
        "print(machine()['processor'], *[f'{p} {m.version(p)}' for p in sys.argv[1:]], sep=', ')"
    )
    return (
        f"{datetime.now(UTC):%B %Y}, {os.cpu_count()} cores, {bench.threads} threads, "
        f"{platform.system()}, load {os.getloadavg()[0]:.1f} at the start; "
        f"{bench.run('-c', code, *PACKAGES).strip()}; {bench.rounds} rounds. "
        "Medians, with the least and the greatest."
    )


def _folds(bench: Bench, overrides: Sequence[str]) -> str:
    """Compare the base model with the machine over five folds without the test split."""
    settings = [f"--set={each}" for each in (bench.data, *overrides)]
    how = ["--config", str(BASE), "--threads", str(bench.threads), *settings]
    found = json.loads(bench.run("-m", "benchmarks.peers.folds", *how))
    counts = [("base, seed 0", found["ours"]), ("SVC(gamma=0.001)", found["svc"])]
    examples = found["examples"]
    return _table(
        ["five folds of training and validation", f"wrong of {examples:,}", "accuracy"],
        [[what, str(wrong), f"{1 - wrong / examples:.4f}"] for what, wrong in counts],
    )


def _accuracy(bench: Bench, seeds: Sequence[int], overrides: Sequence[str]) -> str:
    """Train and evaluate the base model with each seed; compare with the machine."""
    files, seconds = [], []
    for seed in seeds:
        outputs = bench.folder / f"seed-{seed}"
        start = time.perf_counter()
        _train_and_evaluate(bench, BASE, outputs, bench.data, f"seed={seed}", *overrides)
        seconds.append(time.perf_counter() - start)
        files.append(str(outputs / "run" / "predictions.parquet"))
    svc = ["-m", "benchmarks.peers.svc", "--config", str(BASE), "--set", bench.data, *files]
    found = json.loads(bench.run(*svc))
    examples, machine, ours = found["examples"], found["svc"], found["ours"]
    counts = [
        *[(f"base, seed {seed}", right) for seed, right in zip(seeds, ours, strict=True)],
        (f"base, median of {len(seeds)}", statistics.median(ours)),
        ("SVC(gamma=0.001)", machine),
    ]
    enough = min(ours[0], statistics.median(ours)) >= machine
    return _table(
        ["model", f"right of {examples:,}", "test accuracy"],
        [[what, f"{right:g}", f"{right / examples:.4f}"] for what, right in counts],
        f"Target, at least the SVC's with seed {seeds[0]} and in the median: "
        f"{_met(is_met=enough)}. Trained on {found['training']:,}; "
        f"train and eval of one seed took {statistics.median(seconds):.0f} s.",
    )


def _speed(bench: Bench, config: Path, epochs: int) -> str:
    """Let the contenders train the same in turns; compare their steps per second."""
    rounds = [
        {name: _contend(bench, name, config, epochs) for name in (OURS, *PEERS)}
        for _ in range(bench.rounds)
    ]
    difference = _largest_difference(rounds)
    ratios = {
        peer: statistics.median(turn[peer].rate / turn[OURS].rate for turn in rounds)
        for peer in PEERS
    }
    best = max(ratios, key=lambda peer: ratios[peer])
    return _table(
        [config.stem, "steps per second", "peer / ours", "CPU ms a step", "peer / ours"],
        [
            _compared("ours", OURS, rounds),
            *[_compared(title, peer, rounds) for peer, title in PEERS.items()],
        ],
        f"Target, steps per second at least those of the best peer ({PEERS[best]}): "
        f"{_met(is_met=ratios[best] <= 1)}. {len(rounds[0][OURS].losses) - WARM_UP} steps in each "
        f"turn, after {WARM_UP} that are not timed; the losses differ by at most {difference:.0e}.",
    )


def _compared(title: str, contender: str, rounds: Sequence[dict[str, Turn]]) -> list[str]:
    """Return a line of the table: what a contender came to, and that over ours."""
    turns = [(turn[contender], turn[OURS]) for turn in rounds]
    return [
        title,
        spread([own.rate for own, _ in turns], ".1f"),
        spread([own.rate / ours.rate for own, ours in turns], ".3f"),
        spread([own.cpu_ms for own, _ in turns], ".2f"),
        spread([own.cpu_ms / ours.cpu_ms for own, ours in turns], ".3f"),
    ]


def _contend(bench: Bench, contender: str, config: Path, epochs: int) -> Turn:
    """Train with one contender in a process of its own."""
    # The peers have no augmentation of their own: what is compared is the loop.
    plain = [f"train.{key}=0" for key in ("distortion", "mixup", "noise")]
    settings = [bench.data, f"train.epochs={epochs}", *plain]
    how = [f"--config={config}", *(f"--set={each}" for each in settings)]
    timed = [f"--threads={bench.threads}", f"--warm-up={WARM_UP}"]
    printed = bench.run("-m", "benchmarks.peers", contender, *how, *timed)
    return Turn(**json.loads(printed.splitlines()[-1]))  # a peer may greet before


def _largest_difference(rounds: Sequence[dict[str, Turn]]) -> float:
    """Return the largest difference of a peer's loss from ours, as a share of it.

    Raises:
        SystemExit: it is too large to be the same work.
    """
    differences = [
        abs(theirs - ours) / ours
        for turn in rounds
        for peer in PEERS
        for ours, theirs in zip(turn[OURS].losses, turn[peer].losses, strict=True)
    ]
    for difference in differences:
        if not difference <= LARGEST_LOSS_DIFFERENCE:
            msg = f"a peer's loss differs from ours by {difference:.1e}: that is not the same work"
            raise SystemExit(msg)
    return max(differences)


def _seconds_of_tiny(bench: Bench) -> str:
    """Time train and eval of ci-tiny in fresh processes, without its data and with it."""
    seconds: dict[str, list[float]] = {"empty": [], "warm": []}
    for turn in range(bench.rounds):
        folder = bench.folder / f"turn-{turn}"
        for state, measured in seconds.items():
            start = time.perf_counter()
            _train_and_evaluate(bench, TINY, folder / state, f"data.cache_dir={folder / 'data'}")
            measured.append(time.perf_counter() - start)
    rows = [
        [
            f"{state} data folder",
            spread(measured, ".1f"),
            _met(is_met=statistics.median(measured) <= LARGEST_SECONDS),
        ]
        for state, measured in seconds.items()
    ]
    return _table(["ci-tiny, train and eval", "seconds", f"at most {LARGEST_SECONDS}"], rows)


def _train_and_evaluate(bench: Bench, config: Path, outputs: Path, *overrides: str) -> None:
    """Run the two commands that a person would."""
    where = [f"--config={config}", f"--outputs={outputs}", "--run-id=run"]
    where += [f"--set={change}" for change in overrides]
    bench.run("-m", "my_project.train", *where)
    what = [f"--checkpoint={outputs / 'latest.pt'}", "--no-baseline=a benchmark"]
    what += [f"--config={outputs / 'run' / 'config.yaml'}"]
    bench.run("-m", "my_project.eval", *what)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{note}".rstrip()


def _met(*, is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def _say(text: str) -> None:
    print(f"{text}\n", flush=True)


if __name__ == "__main__":
    main()

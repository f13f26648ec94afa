"""Times the registry's commands on a SQLite file, imports included, with a real model.

    python3 benchmarks/registry.py [--runs 5]

Trains configs/ci-tiny.yaml twice, registers both and moves them to production and back. Prints a
Markdown table of medians, with the least and the greatest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.environments import environment  # noqa: E402

from benchmarks.report import print_measured, spread  # noqa: E402 - the path is set above

MODEL = "measured"
LIMIT = "at most 5 s"
STAGES = ("staging", "production")


class Bench:
    """A folder with two judged runs, and what runs commands in it.

    Args:
        folder: scratch space.
        environment_folder: the environment with the packages.
    """

    def __init__(self, folder: Path, environment_folder: Path) -> None:
        self._folder = folder
        self._python = str(environment_folder / "bin" / "python")
        registry = f"sqlite:///{folder / 'mlflow.db'}"
        self._variables = {**environment.isolated(environment_folder), "GATES_REGISTRY": registry}
        self.seconds: dict[str, list[float]] = {}

    def run(self, *arguments: str) -> float:
        """Run Python with `arguments`; return the seconds it took."""
        start = time.perf_counter()
        done = subprocess.run(
            [self._python, *arguments],
            cwd=self._folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            msg = f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            raise SystemExit(msg)
        return time.perf_counter() - start

    def time(self, name: str, *arguments: str) -> None:
        """Run a command of the registry, and note how long it took."""
        words = ["-m", "gates", arguments[0], "--name", MODEL, *arguments[1:]]
        self.seconds.setdefault(name, []).append(self.run(*words))

    def prepare(self) -> None:
        """Copy the configurations, with a policy under which a model need not wait."""
        shutil.copytree(ROOT / "configs", self._folder / "configs")
        file = self._folder / "configs" / "gates.yaml"
        policy = file.read_text(encoding="utf-8")
        # What is measured may not be committed yet, and the bill of materials is another session's.
        for old, new in (
            ("hours_in_staging: 24", "hours_in_staging: 0"),
            ("clean_source: true", "clean_source: false"),
            ("sbom: true", "sbom: false"),
        ):
            policy = policy.replace(old, new)
        file.write_text(policy, encoding="utf-8")

    def train_and_judge(self, run: str, epochs: int, *baseline: str) -> list[str]:
        """Make a judged run; return the options that register it."""
        config = [
            "--config",
            str(ROOT / "configs" / "ci-tiny.yaml"),
            f"--set=train.epochs={epochs}",
        ]
        self.run("-m", "my_project.train", *config, "--run-id", run)
        judge = ["--checkpoint", f"outputs/{run}/checkpoint.pt"]
        verdict = f"{run}.json"
        self.run("-m", "my_project.eval", *judge, "--report", verdict, *baseline)
        return ["--run", f"outputs/{run}", "--verdict", verdict]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the registry's commands on a SQLite file.")
    parser.add_argument("--runs", type=int, default=5, help="of each (default: %(default)s)")
    runs = parser.parse_args().runs
    prepared = environment.prepare_default_cell()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), prepared)
        bench.prepare()
        _measure(bench, runs)
    rows = [(f"`{name}`", _told(found), LIMIT) for name, found in bench.seconds.items()]
    print_measured(rows, runs=runs)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")


def _measure(bench: Bench, runs: int) -> None:
    to = {stage: ["promote", "--to", stage, "--approver", "ben"] for stage in STAGES}
    first = bench.train_and_judge("first", 3, "--no-baseline", "a benchmark")
    bench.time("register, the first, which makes the file", "register", *first)
    for stage in STAGES:
        bench.time(f"promote --to {stage}", *to[stage])
    second = bench.train_and_judge("second", 9, "--baseline", "outputs/first/checkpoint.pt")
    bench.time("register", "register", *second)
    bench.time("promote --to staging", *to["staging"])
    for _ in range(runs):
        bench.time("promote --to production", *to["production"])
        bench.time("rollback", "rollback")
        bench.time("status", "status")
        bench.time("history --verify", "history", "--verify")
        bench.time("register, already there", "register", *second)
    bench.time("promote --to production", *to["production"])


def _told(seconds: list[float]) -> str:
    return spread(seconds, ".2f", " s") if len(seconds) > 1 else f"{seconds[0]:.2f} s, once"


if __name__ == "__main__":
    main()

"""Times the evaluation gate on large files.

    python3 benchmarks/gates.py [--runs 5] [--rows 1000000] [--most-rows 100000000]

Prints a Markdown table: medians, and the most memory that a command
took. The files are made up, in a temporary folder: 20 overlapping subgroups, in 5 columns of 4.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.environments import environment  # noqa: E402

from benchmarks.report import print_measured  # noqa: E402 - the path is set above

# Runs in the locked environment, which has NumPy and pyarrow; this script's Python need not.
MAKE = """\
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
file, rows, seed, digest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with_digests = {"data_digest": "a" * 64, "checkpoint_digest": digest * 64}
writer = None
for start in range(0, rows, 1_000_000):
    ids = np.arange(start, min(start + 1_000_000, rows))
    alike, own = np.random.default_rng(start), np.random.default_rng([start, seed])
    labels = alike.integers(10, size=len(ids))
    hard = alike.random(len(ids)) < 0.2
    wrong = hard & (own.random(len(ids)) < 0.4)
    columns = {"id": pa.array(np.char.mod("%09d", ids)), "label": labels,
               "prediction": np.where(wrong, (labels + 1) % 10, labels)}
    for name in "abcde":
        columns[name] = np.array(["w", "x", "y", "z"])[alike.integers(4, size=len(ids))]
    table = pa.table(columns).replace_schema_metadata(with_digests)
    writer = writer or pq.ParquetWriter(file, table.schema)
    writer.write_table(table)
writer.close()
"""

POLICY = """\
evaluation:
  alpha: 0.05
  power: 0.8
  accuracy: {margin: 0.02, floor: 0.5, require: noninferiority}
  subgroups:
    columns: {a: [], b: [], c: [], d: [], e: []}
    intersections: []
    margin: 0.05
    floor: 0.5
    minimum_examples: 20
    too_small: report
    require: no_harm
    correction: max_t
  metrics: {}
  resamples: 10000
  seed: 0
"""


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    python = str(environment.prepare_default_cell() / "bin" / "python")
    rows = [_help(python, options.runs)]
    with tempfile.TemporaryDirectory() as folder:
        rows.append(_evaluate(python, options.rows, options.runs, Path(folder), "2 s and 1 GB"))
        if options.most_rows:
            rows.append(_evaluate(python, options.most_rows, 1, Path(folder), "2 GB"))
    print_measured(rows, runs=options.runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time the evaluation gate.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument(
        "--most-rows", type=int, default=0, help="once more, on so many rows (default: not)"
    )
    return parser


def _help(python: str, runs: int) -> tuple[str, str, str]:
    seconds = _median([python, "-m", "gates", "evaluate", "--help"], runs)
    bare = _median([python, "-c", ""], runs)
    measured = f"{seconds:.2f} s, of which Python alone {bare:.2f} s"
    return ("`gates evaluate --help`", measured, "at most 0.3 s")


def _evaluate(python: str, rows: int, runs: int, folder: Path, target: str) -> tuple[str, str, str]:
    """Time the whole command on two files of so many rows."""
    files = {name: str(folder / f"{name}-{rows}.parquet") for name in ("candidate", "baseline")}
    for seed, (name, file) in enumerate(files.items()):
        subprocess.run([python, "-c", MAKE, file, str(rows), str(seed), name[0]], check=True)
    policy = folder / "gates.yaml"
    policy.write_text(POLICY)
    command = [python, "-m", "gates", "evaluate", "--policy", str(policy)]
    command += [f"--{name}={file}" for name, file in files.items()]
    measured = [_measure(command) for _ in range(runs)]
    seconds = statistics.median(each for each, _ in measured)
    megabytes = max(memory for _, memory in measured)
    return (
        f"`gates evaluate`, {rows:,} rows, 20 subgroups, 10,000 resamples of max-T",
        f"{seconds:.1f} s, {megabytes:,.0f} MB",
        f"at most {target}",
    )


def _median(command: Sequence[str], runs: int) -> float:
    return statistics.median(_measure(command)[0] for _ in range(runs))


def _measure(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that `command` takes, and the most memory, in MB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes / 1024


if __name__ == "__main__":
    main()

"""Times the sessions against the bare commands behind them, in one run.

    python3 benchmarks/sessions.py [--runs 5] [--skip-tier] [--keywords "not audit"]

Prints a Markdown table: medians, and ratios of commands that took turns (A B A B …), as one
figure alone says little on a shared machine.
"""

import argparse
import os
import shlex
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


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    folder = environment.prepare_default_cell()
    rows = [
        _environment_step(options.runs),
        *_pair("smoke", ["pytest", "tests/smoke"], folder, options.runs),
        _import_torch(folder, options.runs),
    ]
    if not options.skip_tier:
        rows += _tier("pr", options.keywords)
    # Last: what ran before left the manifests.
    rows += _plan_and_parity(folder, options.runs)
    print_measured(rows, runs=options.runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time the sessions against bare commands.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--skip-tier", action="store_true", help="leave out the whole PR tier")
    parser.add_argument(
        "--keywords",
        default="",
        metavar="EXPRESSION",
        help='sessions of the tier, as of nox -k: "not audit" where its database is out of reach',
    )
    return parser


def _environment_step(runs: int) -> tuple[str, str, str]:
    """Time, in a fresh process, the import of our code and the look that finds nothing to do."""
    code = (
        "import time; start = time.perf_counter(); from tasks.environments import environment;"
        "environment.prepare_default_cell();"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    return (
        "environment step, nothing changed",
        f"{statistics.median(times):.3f} s",
        "at most 0.1 s",
    )


def _pair(session: str, bare: Sequence[str], folder: Path, runs: int) -> list[tuple[str, str, str]]:
    """Time a session and the command behind it, taking turns after one warm-up of each."""
    through_nox = ["uvx", "nox", "-s", session]
    alone = [str(folder / "bin" / bare[0]), *bare[1:]]
    _seconds(through_nox)
    _seconds(alone)
    turns = [(_seconds(through_nox), _seconds(alone)) for _ in range(runs)]
    session_seconds = statistics.median(first for first, _ in turns)
    added = statistics.median(first - second for first, second in turns)
    ratio = statistics.median(first / second for first, second in turns)
    return [
        (f"`uvx nox -s {session}`, warm", f"{session_seconds:.1f} s", "at most 15 s"),
        (f"… over `{' '.join(bare)}`", f"{ratio:.2f}x (+{added:.2f} s)", "at most 1.2x"),
    ]


def _plan_and_parity(folder: Path, runs: int) -> list[tuple[str, str, str]]:
    """Time what people and workflows wait for before anything runs, or after all has."""
    manifests = ROOT / "artifacts" / "manifests"
    count = len(list(manifests.glob("*.json")))
    commands = {
        "plan": ["-s", "plan", "--", "pr", "--since", "HEAD"],
        f"parity, {count} manifests": ["-s", "parity", "--", str(manifests), str(manifests)],
    }
    rows = []
    for name, arguments in commands.items():
        bare = [str(folder / "bin" / "nox"), *arguments]
        turns = [(_seconds(bare), _seconds(["uvx", "nox", *arguments])) for _ in range(runs)]
        seconds = statistics.median(first for first, _ in turns)
        added = statistics.median(second - first for first, second in turns)
        rows.append((f"{name}: `nox`", f"{seconds:.2f} s", "at most 0.5 s"))
        rows.append(("… `uvx nox`", f"+{added:.2f} s", "-"))
    return rows


def _tier(tier: str, keywords: str) -> list[tuple[str, str, str]]:
    """Time a whole tier once, one session after the other and then side by side."""
    nox = ["uvx", "nox", "-t", tier, *(["-k", keywords] if keywords else [])]
    serial, parallel = _seconds(nox), _seconds([*nox, "-j", "auto"])
    what = f"`{shlex.join(nox)}`"
    return [
        (f"{what}, once, warm", f"{serial:.0f} s", "at most 120 s"),
        (
            f"… with `-j auto`, {os.cpu_count()} at once",
            f"{parallel:.0f} s, {serial / parallel:.2f}x as fast",
            "-",
        ),
    ]


def _import_torch(folder: Path, runs: int) -> tuple[str, str, str]:
    """Time `import torch` without byte code against with it, as the environments have it."""
    command = [str(folder / "bin" / "python"), "-c", "import torch"]
    with tempfile.TemporaryDirectory() as empty:
        bare = {"PYTHONPYCACHEPREFIX": empty, "PYTHONDONTWRITEBYTECODE": "1"}
        turns = [(_seconds(command, **bare), _seconds(command)) for _ in range(runs)]
    ratio = statistics.median(first / second for first, second in turns)
    compiled = statistics.median(second for _, second in turns)
    return ("`import torch`, byte-compiled", f"{compiled:.1f} s, {ratio:.1f}x faster than not", "-")


def _seconds(command: Sequence[str], **variables: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, check=True, capture_output=True
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

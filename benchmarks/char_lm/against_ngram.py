"""Compares the character model with an n-gram model on the same splits, by the gate.

    python3 benchmarks/char_lm/against_ngram.py [--checkpoint FILE] [--order 5]

Needs only a plain Python: it makes the locked environment first. Without a checkpoint it
trains configs/char_lm/base.yaml. Prints what the gate says of the model against the n-gram: their
bits a character, and the interval of the difference, for which a module counts once.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tasks.environments import environment  # noqa: E402 - the path is set above

CONFIG = ROOT / "configs" / "char_lm" / "base.yaml"
POLICY = CONFIG.with_name("gates.yaml")


def main() -> None:
    """Train if need be, score both, and print."""
    parser = argparse.ArgumentParser(description="Compare the character model with an n-gram.")
    parser.add_argument("--checkpoint", type=Path, help="of a model (default: train one)")
    parser.add_argument(
        "--order", type=int, default=5, help="characters that the n-gram sees (default: 5)"
    )
    options = parser.parse_args()
    prepared = environment.prepare_default_cell()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        checkpoint = options.checkpoint
        if checkpoint is None:
            _run(prepared, "char_lm.train", "--config", CONFIG, "--outputs", scratch)
            checkpoint = scratch / "latest.pt"
        ours, theirs = scratch / "ours.parquet", scratch / "ngram.parquet"
        ngram = ["--config", CONFIG, "--order", options.order, "--predictions", theirs]
        _run(prepared, "benchmarks.char_lm.ngram", *ngram)
        judged = ["--baseline", theirs, "--policy", POLICY, "--predictions", ours]
        _run(prepared, "char_lm.eval", "--checkpoint", checkpoint, *judged)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.")


def _run(prepared: Path, module: str, *arguments: object) -> None:
    """Run a module in the locked environment, and say how long it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [prepared / "bin" / "python", "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment.isolated(prepared),
        check=False,
    )
    # What the gate says of the model, 1 or 3, is the result.
    if done.returncode not in ((0, 1, 3) if module == "char_lm.eval" else (0,)):
        msg = f"{module}: exit code {done.returncode}"
        raise SystemExit(msg)
    print(f"{module}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""What the benchmarks print."""

import os
import platform
from collections.abc import Iterable


def print_measured(rows: Iterable[tuple[str, str, str]], *, runs: int) -> None:
    """Print the machine, then a Markdown table: what, what was measured, and the target."""
    print(
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; "
        f"median of {runs} runs\n"
    )
    print("| what | measured | target |\n|---|---|---|")
    for what, measured, target in rows:
        print(f"| {what} | {measured} | {target} |")

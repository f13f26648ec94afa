"""What the benchmarks print."""

import os
import platform
import statistics
from collections.abc import Iterable, Sequence


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return the median, with the least and the greatest value."""
    median = f"{statistics.median(values):{form}}{unit}"
    return f"{median} ({min(values):{form}} to {max(values):{form}})"


def print_measured(rows: Iterable[tuple[str, str, str]], *, runs: int) -> None:
    """Print the machine, then a Markdown table: what, what was measured, and the target."""
    print(
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; "
        f"median of {runs} runs\n"
    )
    print("| what | measured | target |\n|---|---|---|")
    for what, measured, target in rows:
        print(f"| {what} | {measured} | {target} |")

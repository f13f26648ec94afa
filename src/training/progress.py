"""Shows the progress of a run: a bar on a terminal, plain lines in a file or a CI log."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gates.display import harmless, in_one_line, show


class Display:
    """Prints the output of a run. Created by `shown`."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar = bar
        self._task = task

    def line(self, text: str) -> None:
        """Print a line."""
        if self._bar is None:
            show(text)
        else:
            self._bar.console.print(harmless(text), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, in one line."""
        print(in_one_line(f"warning: {text}"), file=sys.stderr)

    def step(self, step: int, steps: int, loss: float) -> None:
        """Move the bar to `step` of `steps`."""
        if self._bar is not None and self._task is not None:
            text = f"{loss:.4f}"
            self._bar.update(self._task, completed=step, total=steps, loss=text, visible=True)


@contextlib.contextmanager
def shown(*, silent: bool = False) -> Iterator[Display]:
    """Show progress while the block runs; show nothing if `silent`."""
    if silent or sys.stdout is None or not sys.stdout.isatty():
        yield _Silent(None, None) if silent else Display(None, None)
        return
    columns = (
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(), transient=True) as bar:
        # Hidden until the first step, which sets the number of steps.
        yield Display(bar, bar.add_task("training", loss="-", visible=False))


class _Silent(Display):
    def line(self, text: str) -> None:
        """Print nothing: only the first process does."""

    def warn(self, text: str) -> None:
        """Print nothing."""

"""The processes that train a run together, as seen from one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of one process; a method that supports several has a subclass.

    Args:
        rank: index of this process, from 0.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints the output."""
        return self.rank == 0

    def on_first_process(self, work: Callable[[], Result]) -> Result:
        """Call `work` in the first process only; return its result in every process."""
        return work()

"""The processes that train together, as one of them sees them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One process, alone; a method that knows more has a class of its own.

    Args:
        rank: which one this is, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def first_does(self, work: Callable[[], Result]) -> Result:
        """Return what `work` comes to in the first process, which alone does it, everywhere."""
        return work()

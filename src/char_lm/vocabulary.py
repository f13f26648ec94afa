"""The model's symbols: characters as small whole numbers.

There is a symbol for newline, one for each printable ASCII character, and one for all others.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

CHARACTERS = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1))) + "\N{REPLACEMENT CHARACTER}"
SYMBOLS = len(CHARACTERS)
NEWLINE = CHARACTERS.index("\n")
UNKNOWN = SYMBOLS - 1
PADDING = -1  # fills up short passages; not a symbol, and never a target


def encode(text: str) -> npt.NDArray[np.int8]:
    """Return the symbol of each character, (n_characters,)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    printable = (points >= ord(" ")) & (points <= ord("~"))
    symbols = np.where(printable, points - (ord(" ") - 1), UNKNOWN)
    return np.where(points == ord("\n"), NEWLINE, symbols).astype(np.int8)


def decode(symbols: Iterable[int]) -> str:
    """Return the text of `symbols`, without padding."""
    return "".join(CHARACTERS[symbol] for symbol in symbols if symbol != PADDING)

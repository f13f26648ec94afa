import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from char_lm.vocabulary import CHARACTERS, PADDING, SYMBOLS, UNKNOWN, decode, encode

KNOWN = st.text(alphabet="\n" + "".join(map(chr, range(32, 127))))


@settings(deadline=None)
@given(KNOWN)
def test_known_characters_round_trip(text: str) -> None:
    assert decode(encode(text)) == text


@settings(deadline=None)
@given(st.text())
def test_every_character_becomes_one_symbol(text: str) -> None:
    symbols = encode(text)
    assert symbols.shape == (len(text),)
    assert ((symbols >= 0) & (symbols < SYMBOLS)).all()


@settings(deadline=None)
@given(st.text())
def test_only_unknown_characters_are_changed(text: str) -> None:
    expected = [each if each in CHARACTERS else CHARACTERS[UNKNOWN] for each in text]
    assert decode(encode(text)) == "".join(expected)


def test_symbols_are_newline_then_printable_ascii_then_unknown() -> None:
    assert SYMBOLS == 1 + 95 + 1
    assert encode("\n ~\té\U0001f600").tolist() == [0, 1, 95, UNKNOWN, UNKNOWN, UNKNOWN]


def test_padding_is_not_text() -> None:
    padded = np.concatenate([encode("end"), np.full(5, PADDING, np.int8)])
    assert decode(padded) == "end"

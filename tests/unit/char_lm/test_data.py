from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError

from char_lm import data
from char_lm.config import DataConfig, RunConfig
from char_lm.vocabulary import PADDING, decode

MODULE = '''\
"""About the module.

First.
    Indented.
"""

class Outer:
    """About\ta class."""

    def method(self):
        """About a method.

        Args:
            self: it.
        """
        def inner():
            r"""About \\d."""

    async def undocumented(self):
        value = "not a docstring"

def last():
    """Über alles."""
'''


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(GateInputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_docstrings_are_cleaned_and_in_source_order() -> None:
    assert data.docstrings_in(MODULE) == [
        "About the module.\n\nFirst.\n    Indented.",
        "About   a class.",
        "About a method.\n\nArgs:\n    self: it.",
        "About \\d.",
        "Über alles.",
    ]


def test_an_invalid_escape_gives_no_warning() -> None:
    assert data.docstrings_in('"""Digits are \\d."""') == ["Digits are \\d."]


@settings(deadline=None)
@given(st.integers(0, 4 * data.PASSAGE))
def test_cutting_loses_nothing(length: int) -> None:
    text = "".join(map(chr, range(length)))
    passages = data.cut(text)
    assert "".join(passages) == text
    assert all(len(passage) == data.PASSAGE for passage in passages[:-1])
    assert all(1 <= len(passage) <= data.PASSAGE for passage in passages)


def test_passages_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somepackage"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Shared."""')
    (package / "b.py").write_text(f'"""Shared."""\ndef f():\n    """{"x" * 300}"""')
    (package / "tests" / "test_b.py").write_text('"""Not taken."""')
    (package / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(data, "PACKAGES", ("somepackage",))
    assert data.docstrings().to_pylist() == [
        {"id": f"{module}:{n}", "text": text, "module": module, "package": "somepackage"}
        for module, n, text in [
            ("somepackage", 0, "Shared."),
            ("somepackage.b", 0, "x" * 256),
            ("somepackage.b", 1, "x" * 44),
        ]
    ]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PACKAGES", ("no_such_package",))
    assert "no_such_package is not installed" in error_of(data.docstrings)


def test_a_module_is_in_one_split(config: RunConfig) -> None:
    splits = [data.examples_of(config, split, "") for split in ("train", "validation", "test")]
    modules = [set(examples.modules.tolist()) for examples in splits]
    assert sum(map(len, modules)) == len(set.union(*modules)) == 40
    assert sum(map(len, splits)) == 80


def test_symbols_encode_the_text(config: RunConfig, source: Path) -> None:
    texts = {row["id"]: row["text"] for row in pq.read_table(source).to_pylist()}
    examples = data.examples_of(config, "train", "")
    assert examples.symbols.shape == (len(examples), data.PASSAGE)
    for name, symbols in zip(examples.ids, examples.symbols, strict=True):
        assert decode(symbols.tolist()) == texts[name]
        assert (symbols[len(texts[name]) :] == PADDING).all()


def test_a_limit_takes_evenly_spaced_passages(config: RunConfig) -> None:
    limited = config.model_copy(update={"data": config.data.model_copy(update={"passages": 7})})
    whole = data.examples_of(config, "train", "")
    some = data.examples_of(limited, "train", "")
    assert len(some) == 7
    places = [whole.ids.tolist().index(name) for name in some.ids]
    assert places == [number * len(whole) // 7 for number in range(7)]
    # The limit applies to training only: every model is judged on the same examples.
    assert len(data.examples_of(limited, "test", "")) == len(data.examples_of(config, "test", ""))


@pytest.mark.parametrize(
    ("text", "lengths"),
    [pytest.param("", "0 to 9", id="empty"), pytest.param("x" * 257, "9 to 257", id="too_long")],
)
def test_a_passage_of_invalid_length_is_refused(tmp_path: Path, text: str, lengths: str) -> None:
    file = tmp_path / "own.parquet"
    columns = {"id": ["a", "b"], "text": [text, "x" * 9], "module": ["m"] * 2, "package": ["p"] * 2}
    pq.write_table(pa.table(columns), file)
    config = DataConfig(source=str(file), cache_dir=str(tmp_path), workers=0, passages=None)
    message = error_of(lambda: data.DATASET.prepare(config))
    assert f"text must have 1 to 256 characters, got {lengths}" in message

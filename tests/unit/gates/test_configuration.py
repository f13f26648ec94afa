from pathlib import Path

import pytest

from gates.configuration import (
    Section,
    apply_override,
    flat,
    parse_yaml,
    read_yaml,
    validate,
)
from gates.errors import ConfigError


class Inner(Section):
    size: int


class Outer(Section):
    inner: Inner
    name: str


@pytest.mark.parametrize(
    ("content", "explanation"),
    [
        pytest.param(b"", "expected keys and values, such as `seed: 0`, found nothing", id="empty"),
        pytest.param(b"- 1", "found a list", id="list"),
        pytest.param(b"word", "found a str", id="word"),
        pytest.param(b"a: 1\nb: [", "line 2: not valid YAML: ", id="open_bracket"),
        pytest.param(b"a: 1\na: 2", 'not valid YAML: found duplicate key "a"', id="duplicate_key"),
        pytest.param(b"a: \xff", "not valid YAML: ", id="not_utf8"),
        pytest.param(b"a: \x00", "not valid YAML: ", id="nul"),
        pytest.param(b"a: 2024-13-45", "not valid YAML: ", id="no_such_date"),
        pytest.param(b"a: 2001-01-01T00:00:00+99:99", "not valid YAML: ", id="no_such_zone"),
        pytest.param(b"a: !!python/object:os.system x", "not valid YAML: ", id="python_object"),
        pytest.param(b"a: !!bool x", "not valid YAML: ", id="not_a_bool"),
        pytest.param(b"a: !!int x", "not valid YAML: ", id="not_an_int"),
        pytest.param(b"a: " + b"9" * 5000, "not valid YAML: ", id="huge_number"),
        pytest.param(b"[" * 300, "not valid YAML: ", id="deeply_nested"),
        pytest.param(b"? [a]\n: 1\n--- {}", "not valid YAML: ", id="two_documents"),
        pytest.param(b"a: *nowhere", "not valid YAML: ", id="undefined_alias"),
    ],
)
def test_invalid_yaml_is_reported_with_its_file(
    tmp_path: Path, content: bytes, explanation: str
) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_yaml(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert explanation in str(raised.value)


def test_yaml_is_read_as_version_1_2() -> None:
    assert parse_yaml(b"a: 1e-3\nb: no\nc: 0o17", where="x") == {"a": 1e-3, "b": "no", "c": 15}


@pytest.mark.parametrize("name", ["absent.yaml", ""])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("name: x", "inner: missing; every key must be given"),
        ("name: x\ninner: 3", "inner: must be a section with keys, got 3"),
        ("name: x\ninner: {size: 1, sizes: 2}", "inner.sizes: unknown key; did you mean size?"),
        ("name: x\ninner: {size: 1}\nzzz: 2", "zzz: unknown key; known keys: inner, name"),
        (
            "seed: 1\ndata: 2",
            "has the keys seed, data; expected inner, name; is this the right file?",
        ),
        ("name: 3\ninner: {}", "inner.size: missing; every key must be given (and 1 more)"),
        ("name: 3\ninner: {size: 1}", "name: input should be a valid string, got 3"),
    ],
)
def test_invalid_key_or_value_is_reported(text: str, explanation: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(Outer, parse_yaml(text.encode(), where="x"), where="x")
    assert str(raised.value) == f"x: {explanation}"


@pytest.mark.parametrize(
    "value",
    [
        # Each line doubles the one before it; expanded, the last has about 2^40 words.
        pytest.param(
            "&a0 [x]\n" + "\n".join(f"k{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)),
            id="billion_laughs",
        ),
        pytest.param("x" * 100_000, id="long_string"),
        pytest.param("[" + "1, " * 3_000 + "]", id="long_list"),
        pytest.param("0x" + "F" * 9000, id="integer_too_long_to_print"),
    ],
)
def test_error_line_is_short_for_any_value(value: str) -> None:
    class Switch(Section):
        name: bool

    tree = parse_yaml(f"first: {value}".encode(), where="x")
    with pytest.raises(ConfigError) as raised:
        validate(Switch, {"name": tree.get("k39", tree["first"])}, where="x")
    assert len(str(raised.value)) < 300


def test_override_sets_one_value() -> None:
    tree = {"inner": {"size": 1}, "name": "x"}
    assert apply_override(tree, "inner.size=2") == "inner.size"
    assert flat(tree) == {"inner.size": 2, "name": "x"}
    with pytest.raises(ConfigError, match=r"^--set name\.size=2: name is a value, not a section$"):
        apply_override(tree, "name.size=2")
    with pytest.raises(ConfigError, match=r"^--set x: expected KEY=VALUE"):
        apply_override(tree, "x")
    with pytest.raises(ConfigError, match=r"^--set a=\[: the value is not valid YAML"):
        apply_override(tree, "a=[")

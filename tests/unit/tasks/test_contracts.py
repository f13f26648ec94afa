"""Which changes to a schema break somebody, with jsonschema to say what a schema accepts."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tasks.packaging.contracts import breaking
from tasks.project import ROOT, WORKSPACE

Schema = dict[str, Any]

KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")
KEYS = st.sampled_from(["a", "b", "c"])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.just(0.5) | st.text("xy", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    limits = st.fixed_dictionaries(
        {},
        optional={
            "minimum": st.integers(-1, 1),
            "exclusiveMaximum": st.integers(0, 2),
            "minLength": st.integers(0, 1),
            "maxItems": st.integers(0, 2),
            "pattern": st.sampled_from(["x", "^y"]),
        },
    )
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(KEYS, inner, max_size=2),
            "required": st.lists(KEYS, unique=True, max_size=2),
            "additionalProperties": st.booleans() | inner,
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={"items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2)},
    )
    kinds = st.sampled_from(KINDS) | st.lists(
        st.sampled_from(KINDS), min_size=1, max_size=2, unique=True
    )
    typed = st.builds(lambda kind, more: {"type": kind, **more}, kinds, limits)
    alternatives = st.builds(
        lambda several, more: {"anyOf": several, **more},
        st.lists(inner, min_size=1, max_size=2),
        limits,
    )
    unlike_any = st.builds(lambda schema: {"not": schema}, inner)
    return objects | arrays | typed | alternatives | unlike_any


LEAVES: st.SearchStrategy[Any] = (
    st.booleans()
    | st.just({})
    | st.builds(lambda value: {"const": value}, VALUES)
    | st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=2))
    | st.builds(lambda kind: {"type": kind}, st.sampled_from(KINDS))
    | st.just({"$ref": "#/$defs/shared"})
)
SCHEMAS = st.builds(
    lambda schema, shared: {**schema, "$defs": {"shared": shared}},
    st.recursive(LEAVES, schemas, max_leaves=4).filter(lambda schema: isinstance(schema, dict)),
    st.sampled_from([{"type": "string"}, {"type": ["string", "null"]}, {"enum": [1, "x"]}]),
)


@st.composite
def two_versions(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """Draw a schema and, to be near to it, either another one or one with a part replaced."""
    old = draw(SCHEMAS)
    new = draw(SCHEMAS)
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(old)))
        new = {**old, **({key: new[key]} if key in new else {})}
    return old, new


@settings(max_examples=400, deadline=None)
@given(two_versions(), st.lists(VALUES, min_size=1, max_size=12))
def test_what_is_not_called_breaking_refuses_nothing_that_was_accepted(
    versions: tuple[Schema, Schema], documents: list[Any]
) -> None:
    old, new = versions
    was, is_ = Draft202012Validator(old), Draft202012Validator(new)
    lost = [each for each in documents if was.is_valid(each) and not is_.is_valid(each)]
    if lost:
        assert breaking(old, new, use="read"), lost


@settings(max_examples=100, deadline=None)
@given(SCHEMAS)
def test_no_change_breaks_nothing(schema: Schema) -> None:
    again = json.loads(json.dumps(schema))
    assert breaking(schema, again, use="written") == []


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, VALUES)
def test_one_more_alternative_breaks_no_file(schema: Schema, value: Any) -> None:
    rest = {key: each for key, each in schema.items() if key != "$defs"}
    new = {"anyOf": [rest, {"const": value}], "$defs": schema["$defs"]}
    assert breaking(schema, new, use="read") == []


# With a value that the first schema accepts and the second refuses.
@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        pytest.param({"items": {"type": "number"}}, {"items": {"type": "string"}}, [1], id="items"),
        pytest.param(
            {"prefixItems": [{"type": "number"}]},
            {"prefixItems": [{"type": "number"}], "items": False},
            [1, 2],
            id="no_more_items",
        ),
        pytest.param({}, {"additionalProperties": False}, {"a": 1}, id="no_more_keys"),
        pytest.param(
            {"additionalProperties": {"type": "number"}},
            {"additionalProperties": {"type": "string"}},
            {"a": 1},
            id="other_keys",
        ),
        pytest.param(
            {"additionalProperties": {"type": "string"}},
            {"properties": {"a": {"type": "number"}}},
            {"a": "x"},
            id="a_rule_for_a_key_that_had_none",
        ),
        pytest.param({"const": True}, {"const": 1}, True, id="true_is_not_1"),
        pytest.param(
            {"not": {"const": True}}, {"not": {"const": 1}}, 1, id="not_understood_true_is_not_1"
        ),
        pytest.param(
            {"minimum": 0}, {"minimum": 5, "anyOf": [{"minimum": 0}]}, 3, id="beside_alternatives"
        ),
        pytest.param(
            {"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, None, id="null"
        ),
        pytest.param({"type": ["string", "null"]}, {"type": "string"}, None, id="list_of_types"),
        pytest.param(
            {"patternProperties": {"^x": {}}, "additionalProperties": False},
            {"additionalProperties": False},
            {"x": 1},
            id="a_keyword_that_is_gone",
        ),
        pytest.param(True, False, 1, id="nothing_at_all"),
    ],
)
def test_a_value_that_is_refused_now_is_found(old: Any, new: Any, value: Any) -> None:
    assert Draft202012Validator(old).is_valid(value)
    assert not Draft202012Validator(new).is_valid(value)
    keys = [{"properties": {"k": each}, "$defs": {}} for each in (old, new)]
    assert breaking(keys[0], keys[1], use="read")


def config() -> Schema:
    schema: Schema = json.loads(
        (ROOT / "src" / WORKSPACE.default_project.package / "config.schema.json").read_text()
    )
    return schema


def verdict() -> Schema:
    schema: Schema = json.loads((ROOT / "src/gates/verdict.schema.json").read_text())
    return schema


def replaced(schema: Schema, path: str, value: Any) -> Schema:
    """Return a copy with what is at `path` replaced; None takes it out."""
    copy: Schema = json.loads(json.dumps(schema))
    *parents, last = path.split("/")
    node = copy
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return copy


TRAIN = "$defs/TrainConfig/properties"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param(f"{TRAIN}/lr", None, "train.lr is not allowed", id="removed"),
        pytest.param("required", ["x"], "x is required", id="required"),
        pytest.param(
            f"{TRAIN}/precision/enum",
            ["float32"],
            'train.precision may not be "bfloat16"',
            id="enum",
        ),
        pytest.param(
            f"{TRAIN}/lr/type", "integer", "train.lr must be integer, not number", id="type"
        ),
        pytest.param(f"{TRAIN}/lr/maximum", 0.1, "train.lr: maximum is 0.1, not 1", id="upper"),
        pytest.param(
            f"{TRAIN}/epochs/exclusiveMinimum", 1, "train.epochs: exclusiveMinimum is 1", id="lower"
        ),
        pytest.param("properties/tracking/pattern", "^m", "tracking must match ^m", id="pattern"),
        pytest.param(f"{TRAIN}/lr/multipleOf", 2, "multipleOf differs", id="not_understood"),
        pytest.param("$defs/TrainConfig", None, "a reference to nothing differs", id="reference"),
    ],
)
def test_a_change_of_the_configuration_that_breaks_its_files(
    path: str, value: Any, said: str
) -> None:
    found = breaking(config(), replaced(config(), path, value), use="read")
    assert any(said in line for line in found), found
    assert all(line.startswith("old files: ") for line in found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(f"{TRAIN}/precision/enum", ["float32", "bfloat16", "fp8"], id="enum"),
        pytest.param(f"{TRAIN}/lr/maximum", None, id="no_upper_limit"),
        pytest.param(f"{TRAIN}/lr/maximum", 2, id="higher_limit"),
        pytest.param(f"{TRAIN}/epochs/type", "number", id="wider_type"),
        pytest.param(f"{TRAIN}/lr/description", "another text", id="description"),
        pytest.param("required", [], id="optional"),
        pytest.param("properties/more", {"type": "string"}, id="a_key_that_may_be_left_out"),
    ],
)
def test_a_change_of_the_configuration_that_breaks_nothing(path: str, value: Any) -> None:
    assert breaking(config(), replaced(config(), path, value), use="read") == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("required", [], "old readers: gate is required", id="no_longer_always_there"),
        pytest.param(
            "$defs/Outcome/enum",
            ["pass", "fail", "inconclusive", "maybe"],
            'old readers: outcome may not be "maybe"',
            id="a_value_that_no_reader_knows",
        ),
        pytest.param("properties/reason", None, "old files: reason is not allowed", id="removed"),
    ],
)
def test_a_change_of_the_verdict_that_breaks_its_readers(path: str, value: Any, said: str) -> None:
    found = breaking(verdict(), replaced(verdict(), path, value), use="written")
    assert said in found


def test_a_reader_of_verdicts_takes_no_notice_of_one_more_key() -> None:
    new = replaced(verdict(), "properties/more", {"type": "string"})
    assert breaking(verdict(), new, use="written") == []


@pytest.mark.parametrize("use", ["read", "written"])
def test_a_schema_that_holds_itself_is_compared(use: Literal["read", "written"]) -> None:
    def tree(kind: str) -> Schema:
        node = {
            "type": "object",
            "properties": {
                "value": {"type": kind},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
        }
        return {"$ref": "#/$defs/Node", "$defs": {"Node": node}}

    assert breaking(tree("string"), tree("string"), use=use) == []
    found = breaking(tree("string"), tree("number"), use=use)
    assert "old files: value must be number, not string" in found

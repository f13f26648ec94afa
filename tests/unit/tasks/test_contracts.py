"""Which schema changes are breaking, checked against what jsonschema accepts."""

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
        lambda options, more: {"anyOf": options, **more},
        st.lists(inner, min_size=1, max_size=2),
        limits,
    )
    negated = st.builds(lambda schema: {"not": schema}, inner)
    return objects | arrays | typed | alternatives | negated


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
    """Draw a schema and a second one: unrelated, or the first with one key replaced."""
    old = draw(SCHEMAS)
    new = draw(SCHEMAS)
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(old)))
        new = {**old, **({key: new[key]} if key in new else {})}
    return old, new


@settings(max_examples=400, deadline=None)
@given(two_versions(), st.lists(VALUES, min_size=1, max_size=12))
def test_non_breaking_change_keeps_every_valid_document_valid(
    versions: tuple[Schema, Schema], documents: list[Any]
) -> None:
    old, new = versions
    old_validator, new_validator = Draft202012Validator(old), Draft202012Validator(new)
    lost = [
        each
        for each in documents
        if old_validator.is_valid(each) and not new_validator.is_valid(each)
    ]
    if lost:
        assert breaking(old, new, use="read"), lost


@settings(max_examples=100, deadline=None)
@given(SCHEMAS)
def test_unchanged_schema_is_not_breaking(schema: Schema) -> None:
    again = json.loads(json.dumps(schema))
    assert breaking(schema, again, use="written") == []


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, VALUES)
def test_added_alternative_is_not_breaking(schema: Schema, value: Any) -> None:
    rest = {key: each for key, each in schema.items() if key != "$defs"}
    new = {"anyOf": [rest, {"const": value}], "$defs": schema["$defs"]}
    assert breaking(schema, new, use="read") == []


# `value` is valid under the old schema and invalid under the new one.
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
            id="new_rule_for_a_key",
        ),
        pytest.param({"const": True}, {"const": 1}, True, id="true_is_not_1"),
        pytest.param(
            {"not": {"const": True}},
            {"not": {"const": 1}},
            1,
            id="true_is_not_1_in_an_unsupported_keyword",
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
            id="removed_keyword",
        ),
        pytest.param(True, False, 1, id="rejects_everything"),
    ],
)
def test_newly_rejected_value_is_breaking(old: Any, new: Any, value: Any) -> None:
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
    """Return a copy with the value at `path` replaced, or removed if `value` is None."""
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
    ("path", "value", "message"),
    [
        pytest.param(f"{TRAIN}/lr", None, "train.lr is not allowed", id="removed"),
        pytest.param("required", ["x"], "x is required", id="required"),
        pytest.param(
            f"{TRAIN}/precision/enum",
            ["float32"],
            'train.precision must not be "bfloat16"',
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
        pytest.param(f"{TRAIN}/lr/multipleOf", 2, "multipleOf differs", id="unsupported_keyword"),
        pytest.param("$defs/TrainConfig", None, "a reference to nothing differs", id="reference"),
    ],
)
def test_breaking_change_to_the_configuration_is_found(path: str, value: Any, message: str) -> None:
    found = breaking(config(), replaced(config(), path, value), use="read")
    assert any(message in line for line in found), found
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
        pytest.param("properties/more", {"type": "string"}, id="optional_key"),
    ],
)
def test_compatible_change_to_the_configuration_passes(path: str, value: Any) -> None:
    assert breaking(config(), replaced(config(), path, value), use="read") == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("required", [], "old readers: gate is required", id="no_longer_required"),
        pytest.param(
            "$defs/Outcome/enum",
            ["pass", "fail", "inconclusive", "maybe"],
            'old readers: outcome must not be "maybe"',
            id="new_enum_value",
        ),
        pytest.param("properties/reason", None, "old files: reason is not allowed", id="removed"),
    ],
)
def test_breaking_change_to_the_verdict_is_found(path: str, value: Any, message: str) -> None:
    found = breaking(verdict(), replaced(verdict(), path, value), use="written")
    assert message in found


def test_added_key_in_the_verdict_is_not_breaking() -> None:
    new = replaced(verdict(), "properties/more", {"type": "string"})
    assert breaking(verdict(), new, use="written") == []


@pytest.mark.parametrize("use", ["read", "written"])
def test_recursive_schema_is_compared(use: Literal["read", "written"]) -> None:
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

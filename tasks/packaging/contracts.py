"""Finds breaking changes to the schemas that others rely on.

Schemas are compared by what they accept. Any keyword that this module does not understand counts
as breaking, since nothing shows that it is not.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks import git

# Others write the files that are `read` here, so a new schema must accept everything that the old
# one accepted. Others read the files that are `written` here, old files included, so new files must
# also contain nothing that old readers do not expect.
_CONTRACTS: Mapping[str, Literal["read", "written"]] = {
    r"src/\w+/config\.schema\.json": "read",
    r"src/gates/verdict\.schema\.json": "written",
}
INDEX = ""  # git's name for the staged files: `git show :FILE`

_SILENT = frozenset(
    ("$defs", "$id", "$schema", "default", "deprecated", "description", "examples", "title")
)
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SUBSCHEMAS = frozenset(("properties", "required", "additionalProperties", "items", "prefixItems"))
_UNDERSTOOD = (
    _SILENT | _SUBSCHEMAS | {*_LOWER, *_UPPER, "type", "enum", "const", "anyOf", "$ref", "pattern"}
)
_TYPES_WITHIN = {"integer": "number"}


def broken(before: str, after: str, root: Path) -> list[str]:
    """Return one line for each way in which the revision `after` breaks a contract of `before`.

    Each is any revision that git understands, or `INDEX` for the staged files.
    """
    found: list[str] = []
    for file, use in contracts(before, root):
        old, new = (_text(revision, file, root) for revision in (before, after))
        if old is None or old == new:
            continue  # a new contract breaks nothing
        found += [f"{file}: {change}" for change in _compare(old, new, use)]
    return found


def contracts(revision: str, root: Path) -> Iterator[tuple[str, Literal["read", "written"]]]:
    """Yield each schema in `revision` and how we use its files."""
    listed = git.output("ls-tree", "-r", "-z", "--name-only", revision, "src", cwd=root) or ""
    for file in listed.split("\0"):
        for pattern, use in _CONTRACTS.items():
            if re.fullmatch(pattern, file):
                yield file, use


def _text(revision: str, file: str, root: Path) -> str | None:
    return git.output("show", f"{revision}:{file}", cwd=root)


def _compare(old: str, new: str | None, use: Literal["read", "written"]) -> list[str]:
    if new is None:
        return ["no longer exists"]
    try:
        before, after = json.loads(old), json.loads(new)
    except ValueError as error:
        return [f"is not JSON ({error})"]
    return breaking(before, after, use=use)


def breaking(
    old: Mapping[str, Any], new: Mapping[str, Any], *, use: Literal["read", "written"]
) -> list[str]:
    """Return one line for each breaking change from one schema to another."""
    found = [f"old files: {each}" for each in _Comparison(old, new).rejections(old, new, "")]
    if use == "written":
        reverse = _Comparison(new, old, ignores_unknown_keys=True).rejections(new, old, "")
        found += [f"old readers: {each}" for each in reverse]
    return found


@dataclass(frozen=True)
class _Comparison:
    """Finds values that the old schema accepts but the new one rejects.

    Args:
        old: the document that resolves references in the old schema.
        new: the document that resolves references in the new schema.
        ignores_unknown_keys: whether readers by the new schema ignore keys that it does not have.
        in_progress: the pairs being compared, since a schema may contain itself.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    ignores_unknown_keys: bool = False
    in_progress: set[tuple[int, int]] = field(default_factory=set)

    def rejections(self, old: Any, new: Any, where: str) -> list[str]:
        """Return why `new` may reject something that `old` accepts; empty if it rejects nothing."""
        if new is True or new == {} or old is False:
            return []
        if new is False:
            return [f"{_shown(where)} is not allowed"]
        pair = (id(old), id(new))
        if pair in self.in_progress:
            return []
        self.in_progress.add(pair)
        try:
            return self._compare_alternatives({} if old is True else old, new, where)
        finally:
            self.in_progress.discard(pair)

    def _compare_alternatives(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> list[str]:
        olds, news = _alternatives(self.old, old), _alternatives(self.new, new)
        if _same([olds, self.old.get("$defs")], [news, self.new.get("$defs")]):
            return []
        found: list[str] = []
        for one in olds:
            reasons = [[*self._compare_one(one, other, where)] for other in news]
            # Report only the alternative that comes closest to accepting it.
            fewest = min(map(len, reasons), default=0)
            found += next(
                (each for each in reasons if len(each) == fewest),
                [f"{_shown(where)} accepts nothing"],
            )
        return found

    def _compare_one(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        for key in sorted((old.keys() | new.keys()) - _UNDERSTOOD):
            if not _same(_with_defs(self.old, old.get(key)), _with_defs(self.new, new.get(key))):
                yield f"{_shown(where)}: {key} differs and cannot be compared"
        yield from _compare_values(old, new, where)
        yield from _compare_limits(old, new, where)
        if _may_be(old, "object"):
            yield from self._compare_keys(old, new, where)
        if _may_be(old, "array"):
            yield from self._compare_items(old, new, where)

    def _compare_keys(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        for key in sorted({*new.get("required", [])} - {*old.get("required", [])}):
            yield f"{_join(where, key)} is required"
        had, has = old.get("properties", {}), new.get("properties", {})
        others, rest = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if self.ignores_unknown_keys and rest is False:
            others, rest, had = False, True, {key: had[key] for key in had if key in has}
        for key in sorted(had.keys() | has.keys()):
            # additionalProperties is the rule for keys that are not listed.
            yield from self.rejections(had.get(key, others), has.get(key, rest), _join(where, key))
        yield from self.rejections(others, rest, _join(where, "*"))

    def _compare_items(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        first, firsts = old.get("prefixItems", []), new.get("prefixItems", [])
        rest, rests = old.get("items", True), new.get("items", True)
        for index in range(max(len(first), len(firsts))):
            had = first[index] if index < len(first) else rest
            has = firsts[index] if index < len(firsts) else rests
            yield from self.rejections(had, has, _join(where, str(index)))
        yield from self.rejections(rest, rests, _join(where, "[]"))


def _compare_values(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    allowed, values = _values(new), _values(old)
    if allowed is not None:
        lost = (
            ["anything else"]
            if values is None
            else [each for each in values if each not in allowed]
        )
        if lost:
            yield f"{_shown(where)} must not be {', '.join(lost)}"
    before, after = old.get("type"), new.get("type")
    if after is not None and after not in (before, _TYPES_WITHIN.get(str(before))):
        yield f"{_shown(where)} must be {after}, not {before or 'anything'}"


def _compare_limits(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in _LOWER:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{_shown(where)}: {key} is {new[key]}, not {old.get(key, 'unlimited')}"
    for key in _UPPER:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{_shown(where)}: {key} is {new[key]}, not {old.get(key, 'unlimited')}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{_shown(where)} must match {new['pattern']}"


def _alternatives(document: Mapping[str, Any], schema: Any) -> list[dict[str, Any]]:
    """Split `schema` into alternatives, of which a value must match at least one."""
    if isinstance(schema, bool):
        return [{}] if schema else []
    rest = {key: value for key, value in schema.items() if key not in _SILENT}
    if "$ref" in rest:
        several = [_resolve(document, str(rest.pop("$ref")))]
    elif "anyOf" in rest:
        several = rest.pop("anyOf")
    elif isinstance(rest.get("type"), list):
        several = [{"type": kind} for kind in rest.pop("type")]
    else:
        return [rest]
    return [_both(rest, each) for one in several for each in _alternatives(document, one)]


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that combines two; if they share a key, one that counts as not understood."""
    return {"allOf": [one, other]} if one.keys() & other.keys() else {**one, **other}


def _resolve(document: Mapping[str, Any], reference: str) -> Any:
    """Return the schema that a reference within a document points to."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {"a reference to nothing": reference}


def _with_defs(document: Mapping[str, Any], value: object) -> list[object]:
    """Return a value that is not understood, with `$defs` if it contains references."""
    has_references = '"$ref"' in json.dumps(value)
    return [value, document.get("$defs") if has_references else None]


def _values(schema: Mapping[str, Any]) -> list[str] | None:
    """Return the values that a schema lists, as JSON; None if it lists none."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else [json.dumps(each, sort_keys=True) for each in values]


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    return bool(schema.get("type", kind) == kind)


def _same(one: object, other: object) -> bool:
    """Whether both are the same JSON: in Python, True == 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(where: str) -> str:
    return where or "the whole document"

"""The schemas that others rely on, and which changes to them break something.

A schema is compared by what it accepts. Whatever this module does not understand counts as
breaking: nobody has shown that it is not.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks import git

# What is `read` here others write, so all that was accepted must be accepted. What is `written`
# here others read, old files too: besides that, nothing new may be where they don't expect it.
_CONTRACTS: Mapping[str, Literal["read", "written"]] = {
    r"src/\w+/config\.schema\.json": "read",
    r"src/gates/verdict\.schema\.json": "written",
}
INDEX = ""  # what git calls the staged files: `git show :FILE`

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
    """Return a line for each way in which a contract of the revision `before` is broken `after`.

    A revision is what git calls one; `INDEX` is what is staged.
    """
    found: list[str] = []
    for file, use in contracts(before, root):
        old, new = (_text(revision, file, root) for revision in (before, after))
        if old is None or old == new:
            continue  # a contract that is new breaks nothing
        found += [f"{file}: {what}" for what in _compare(old, new, use)]
    return found


def contracts(revision: str, root: Path) -> Iterator[tuple[str, Literal["read", "written"]]]:
    """Yield each schema that `revision` has, and how it is used."""
    listed = git.output("ls-tree", "-r", "-z", "--name-only", revision, "src", cwd=root) or ""
    for file in listed.split("\0"):
        for pattern, use in _CONTRACTS.items():
            if re.fullmatch(pattern, file):
                yield file, use


def _text(revision: str, file: str, root: Path) -> str | None:
    return git.output("show", f"{revision}:{file}", cwd=root)


def _compare(old: str, new: str | None, use: Literal["read", "written"]) -> list[str]:
    if new is None:
        return ["is no longer there"]
    try:
        before, after = json.loads(old), json.loads(new)
    except ValueError as error:
        return [f"is no JSON ({error})"]
    return breaking(before, after, use=use)


def breaking(
    old: Mapping[str, Any], new: Mapping[str, Any], *, use: Literal["read", "written"]
) -> list[str]:
    """Return a line for each change from one schema to another that breaks somebody."""
    found = [f"old files: {each}" for each in _Comparison(old, new).refusals(old, new, "")]
    if use == "written":
        back = _Comparison(new, old, ignores_more_keys=True).refusals(new, old, "")
        found += [f"old readers: {each}" for each in back]
    return found


@dataclass(frozen=True)
class _Comparison:
    """Looks for what one document accepts and another refuses.

    Args:
        old: the document in which the one side's references are looked up.
        new: that of the other side.
        ignores_more_keys: whether the other side takes no notice of keys that it doesn't know.
        begun: the pairs being compared, since a schema may hold itself.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    ignores_more_keys: bool = False
    begun: set[tuple[int, int]] = field(default_factory=set)

    def refusals(self, old: Any, new: Any, where: str) -> list[str]:
        """Return why `new` may refuse something that `old` accepts; nothing if it does not."""
        if new is True or new == {} or old is False:
            return []
        if new is False:
            return [f"{_shown(where)} is not allowed"]
        pair = (id(old), id(new))
        if pair in self.begun:
            return []
        self.begun.add(pair)
        try:
            return self._of_alternatives({} if old is True else old, new, where)
        finally:
            self.begun.discard(pair)

    def _of_alternatives(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> list[str]:
        olds, news = _alternatives(self.old, old), _alternatives(self.new, new)
        if _same([olds, self.old.get("$defs")], [news, self.new.get("$defs")]):
            return []
        found: list[str] = []
        for one in olds:
            tried = [[*self._of_one(one, other, where)] for other in news]
            # Of several alternatives, say what keeps it out of the one that it resembles.
            closest = min(map(len, tried), default=0)
            found += next(
                (each for each in tried if len(each) == closest),
                [f"{_shown(where)} accepts nothing"],
            )
        return found

    def _of_one(self, old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
        for key in sorted((old.keys() | new.keys()) - _UNDERSTOOD):
            if not _same(_whole(self.old, old.get(key)), _whole(self.new, new.get(key))):
                yield f"{_shown(where)}: {key} differs, which cannot be compared"
        yield from _of_values(old, new, where)
        yield from _of_limits(old, new, where)
        if _may_be(old, "object"):
            yield from self._of_keys(old, new, where)
        if _may_be(old, "array"):
            yield from self._of_items(old, new, where)

    def _of_keys(self, old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
        for key in sorted({*new.get("required", [])} - {*old.get("required", [])}):
            yield f"{_join(where, key)} is required"
        had, has = old.get("properties", {}), new.get("properties", {})
        others, rest = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if self.ignores_more_keys and rest is False:
            others, rest, had = False, True, {key: had[key] for key in had if key in has}
        for key in sorted(had.keys() | has.keys()):
            # Under a key without a rule of its own stands what the others may be.
            yield from self.refusals(had.get(key, others), has.get(key, rest), _join(where, key))
        yield from self.refusals(others, rest, _join(where, "*"))

    def _of_items(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        first, firsts = old.get("prefixItems", []), new.get("prefixItems", [])
        rest, rests = old.get("items", True), new.get("items", True)
        for index in range(max(len(first), len(firsts))):
            had = first[index] if index < len(first) else rest
            has = firsts[index] if index < len(firsts) else rests
            yield from self.refusals(had, has, _join(where, str(index)))
        yield from self.refusals(rest, rests, _join(where, "[]"))


def _of_values(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    allowed, values = _values(new), _values(old)
    if allowed is not None:
        lost = (
            ["anything else"]
            if values is None
            else [each for each in values if each not in allowed]
        )
        if lost:
            yield f"{_shown(where)} may not be {', '.join(lost)}"
    kind, kinds = old.get("type"), new.get("type")
    if kinds is not None and kinds not in (kind, _TYPES_WITHIN.get(str(kind))):
        yield f"{_shown(where)} must be {kinds}, not {kind or 'anything'}"


def _of_limits(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in _LOWER:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{_shown(where)}: {key} is {new[key]}, not {old.get(key, 'unlimited')}"
    for key in _UPPER:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{_shown(where)}: {key} is {new[key]}, not {old.get(key, 'unlimited')}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{_shown(where)} must match {new['pattern']}"


def _alternatives(document: Mapping[str, Any], schema: Any) -> list[dict[str, Any]]:
    """Return the schemas of which a value must fit one; together they are `schema`."""
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
    """Return a schema that holds a value to two; where they meet, one that is not understood."""
    return {"allOf": [one, other]} if one.keys() & other.keys() else {**one, **other}


def _resolve(document: Mapping[str, Any], reference: str) -> Any:
    """Return what a reference inside of a document points to."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {"a reference to nothing": reference}


def _whole(document: Mapping[str, Any], value: object) -> list[object]:
    """Return a part that is not understood, with all that its references may point to."""
    refers = '"$ref"' in json.dumps(value)
    return [value, document.get("$defs") if refers else None]


def _values(schema: Mapping[str, Any]) -> list[str] | None:
    """Return the only values that a schema accepts, as JSON; None if it does not list them."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else [json.dumps(each, sort_keys=True) for each in values]


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    return bool(schema.get("type", kind) == kind)


def _same(one: object, other: object) -> bool:
    """Whether two are the same JSON: for Python, true is 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(where: str) -> str:
    return where or "the whole"

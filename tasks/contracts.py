"""The schemas that others rely on, and which changes to them break something.

A schema is compared by what it accepts. Whatever this module does not understand counts as
breaking: nobody has shown that it is not.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks import git

# What is `read` here others write, so all that was accepted must be accepted. What is `written`
# here others read, old files too: besides that, nothing new may be where they don't expect it.
CONTRACTS: Mapping[str, Literal["read", "written"]] = {
    "src/my_project/config.schema.json": "read",
    "src/gates/verdict.schema.json": "written",
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
    for file, use in CONTRACTS.items():
        old, new = (_text(revision, file, root) for revision in (before, after))
        if old is None or old == new:
            continue  # a contract that is new breaks nothing
        found += [f"{file}: {what}" for what in _compare(old, new, use)]
    return found


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
    found = list(_Comparison(old, new).refusals(old, new, ""))
    if use == "written":
        back = _Comparison(new, old, ignores_more_keys=True).refusals(new, old, "")
        found += [f"a reader does not expect it: {each}, seen from the new one" for each in back]
    return found


@dataclass(frozen=True)
class _Comparison:
    """Compares what two documents accept.

    Args:
        old: the document in which the old side's references are looked up.
        new: that of the new side.
        ignores_more_keys: whether a reader takes no notice of keys that it doesn't know.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    ignores_more_keys: bool = False

    def refusals(self, old: Any, new: Any, where: str) -> Iterator[str]:
        """Yield why something that `old` accepts may be refused by `new`; nothing if nothing is."""
        if new is True or new == {} or old is False:
            return
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            if old != new:
                yield f"{_shown(where)} accepts less"
            return
        olds, news = _alternatives(self.old, old), _alternatives(self.new, new)
        if olds == news and self.old.get("$defs") == self.new.get("$defs"):
            return
        for one in olds:
            best: list[str] | None = None
            for other in news:
                found = list(self._of_one(one, other, where))
                if not found:
                    break
                # Of several alternatives, say what keeps it out of the one that it resembles.
                if best is None or len(found) < len(best):
                    best = found
            else:
                yield from _of_alternatives(one, best, where)

    def _of_one(self, old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
        for key in sorted(new.keys() - _UNDERSTOOD):
            if old.get(key) != new[key]:
                yield f"{_shown(where)} is now held to {key}, which cannot be compared"
        yield from _of_values(old, new, where)
        yield from _of_limits(old, new, where)
        yield from self._of_keys(old, new, where)
        yield from self._of_items(old, new, where)

    def _of_keys(self, old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
        if not _may_be(old, "object"):
            return
        for key in sorted({*new.get("required", [])} - {*old.get("required", [])}):
            yield f"{_shown(where, key)} is now required"
        had, has = old.get("properties", {}), new.get("properties", {})
        others, rest = old.get("additionalProperties", True), new.get("additionalProperties", True)
        for key in had.keys() | has.keys():
            if key in has:
                # What an old file could have under a key that it had no rule for.
                yield from self.refusals(had.get(key, others), has[key], _join(where, key))
            elif rest is False and had[key] is not False and not self.ignores_more_keys:
                yield f"{_shown(where, key)} was removed"
            elif rest is not False:
                yield from self.refusals(had[key], rest, _join(where, key))
        if not (self.ignores_more_keys and rest is False):
            yield from self.refusals(others, rest, _join(where, "*"))

    def _of_items(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        if not _may_be(old, "array"):
            return
        first, firsts = old.get("prefixItems", []), new.get("prefixItems", [])
        rest, rests = old.get("items", True), new.get("items", True)
        for index in range(max(len(first), len(firsts))):
            had = first[index] if index < len(first) else rest
            has = firsts[index] if index < len(firsts) else rests
            yield from self.refusals(had, has, _join(where, str(index)))
        yield from self.refusals(rest, rests, _join(where, "[]"))


def _of_alternatives(one: Mapping[str, Any], best: list[str] | None, where: str) -> Iterator[str]:
    if best:
        yield from best
    else:
        yield f"{_shown(where)} no longer accepts {json.dumps(one, sort_keys=True)}"


def _of_values(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    allowed, values = _values(new), _values(old)
    if allowed is not None:
        lost = ["others"] if values is None else [each for each in values if each not in allowed]
        if lost:
            yield f"{_shown(where)} no longer accepts {', '.join(map(json.dumps, lost))}"
    kind, kinds = old.get("type"), new.get("type")
    if kinds is not None and kinds not in (kind, _TYPES_WITHIN.get(str(kind))):
        yield f"{_shown(where)} was {kind or 'anything'} and is {kinds}"


def _of_limits(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in _LOWER:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{_shown(where)}: {key} rose to {new[key]}"
    for key in _UPPER:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{_shown(where)}: {key} fell to {new[key]}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{_shown(where)}: its pattern changed"


def _alternatives(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of which a value must fit one; together they are `schema`."""
    rest = {key: value for key, value in schema.items() if key not in _SILENT}
    if "$ref" in rest:
        target = _resolve(document, str(rest.pop("$ref")))
        return [{**each, **rest} for each in _alternatives(document, target)]
    if "anyOf" in rest:
        several = rest.pop("anyOf")
        return [{**rest, **each} for one in several for each in _alternatives(document, one)]
    if isinstance(rest.get("type"), list):
        return [{**rest, "type": kind} for kind in rest["type"]]
    return [rest]


def _resolve(document: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    """Return what a reference inside of a document points to."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {"a reference to nothing": reference}


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the only values that a schema accepts; None if it does not list them."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    return schema.get("type", kind) == kind and _values(schema) is None


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(where: str, key: str | None = None) -> str:
    return _join(where, key) if key else where or "the whole"

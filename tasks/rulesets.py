"""The rulesets in .github/rulesets: read, checked, and compared with GitHub's.

GitHub adds fields of its own to what it is given (ids, dates, links), so a comparison is over
the fields below, and a file states every one of them: nothing is left to a default.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FOLDER = Path(".github", "rulesets")
WORKFLOWS = Path(".github", "workflows")

# The one check that stands for every other; see tasks/green.py.
REQUIRED_CHECK = "green"

# Patterns of a condition that are GitHub's own words, and the branch that the first one is here.
_DEFAULT_BRANCH, _ALL_BRANCHES = "~DEFAULT_BRANCH", "~ALL"
_MAIN = "refs/heads/main"

# What a value can be, in the words of a finding.
_TEXT, _SWITCH, _NUMBER = "a text that is not empty", "true or false", "a whole number"
_NUMBER_OR_NULL, _LIST, _SOME = "a whole number or null", "a list", "a list that is not empty"
_TEXTS, _SOME_TEXTS = "a list of texts", "a list of texts that is not empty"
_KINDS: dict[str, Callable[[Any], bool]] = {
    _TEXT: lambda value: isinstance(value, str) and value.strip() != "",
    _SWITCH: lambda value: isinstance(value, bool),
    _NUMBER: lambda value: type(value) is int and value >= 0,  # True is an int as well
    _NUMBER_OR_NULL: lambda value: value is None or _KINDS[_NUMBER](value),
    _LIST: lambda value: isinstance(value, list),
    _SOME: lambda value: _KINDS[_LIST](value) and value != [],
    _TEXTS: lambda value: _KINDS[_LIST](value) and all(map(_KINDS[_TEXT], value)),
    _SOME_TEXTS: lambda value: _KINDS[_TEXTS](value) and value != [],
}

# What GitHub's API takes, as far as the files use it; a list or a scalar has no keys of its own.
KEYS: dict[str, Any] = {
    "name": _TEXT,
    "target": _TEXT,
    "enforcement": _TEXT,
    "bypass_actors": _LIST,
    "conditions": {"ref_name": {"include": _SOME_TEXTS, "exclude": _TEXTS}},
    "rules": _SOME,
}
PARAMETERS: dict[str, dict[str, str]] = {
    "deletion": {},
    "non_fast_forward": {},
    "required_linear_history": {},
    "required_signatures": {},
    "pull_request": {
        "allowed_merge_methods": _SOME_TEXTS,
        "dismiss_stale_reviews_on_push": _SWITCH,
        "require_code_owner_review": _SWITCH,
        "require_last_push_approval": _SWITCH,
        "required_approving_review_count": _NUMBER,
        "required_review_thread_resolution": _SWITCH,
    },
    "required_status_checks": {
        "do_not_enforce_on_create": _SWITCH,
        "required_status_checks": _SOME,
        "strict_required_status_checks_policy": _SWITCH,
    },
    "merge_queue": {
        "check_response_timeout_minutes": _NUMBER,
        "grouping_strategy": _TEXT,
        "max_entries_to_build": _NUMBER,
        "max_entries_to_merge": _NUMBER,
        "merge_method": _TEXT,
        "min_entries_to_merge": _NUMBER,
        "min_entries_to_merge_wait_minutes": _NUMBER,
    },
}
CHECK_KEYS = {"context": _TEXT, "integration_id": _NUMBER_OR_NULL}
ACTOR_KEYS = {"actor_id": _NUMBER_OR_NULL, "actor_type": _TEXT, "bypass_mode": _TEXT}
# A ruleset that is not in force protects nothing; what is not wanted has no file.
VALUES = {"target": ("branch", "tag"), "enforcement": ("active",)}

# Where something stands in a ruleset: ("rules", 3, "parameters", "required_status_checks").
Place = tuple[str | int, ...]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """A ruleset as its file has it.

    Args:
        file: the path relative to the repository's root, as findings name it.
        body: what GitHub is sent.
        lines: the line of each place in it.
        twice: the line and the place of each key that its object has already.
    """

    file: Path
    body: dict[str, Any]
    lines: Mapping[Place, int]
    twice: tuple[tuple[int, Place], ...]

    def finding(self, place: Place, message: str) -> str:
        """Return `message` behind the file and the line of `place`, or of what it would be in."""
        while place not in self.lines:
            place = place[:-1]
        return f"{self.file}:{self.lines[place]}: {message}"


def read(root: Path) -> tuple[list[Ruleset], list[str]]:
    """Return the rulesets of the repository in `root`, and a finding for each unreadable file."""
    rulesets, findings = [], []
    for path in sorted((root / FOLDER).glob("*.json")):
        file = path.relative_to(root)
        try:
            text = path.read_text(encoding="utf-8")
            body = json.loads(text)
        except json.JSONDecodeError as error:
            findings.append(f"{file}:{error.lineno}: no JSON: {error.msg}")
            continue
        except (OSError, ValueError, RecursionError) as error:
            findings.append(f"{file}:1: cannot be read: {error}")
            continue
        if isinstance(body, dict):
            twice = tuple(repeated_keys(text))
            rulesets.append(Ruleset(file=file, body=body, lines=lines_of(text), twice=twice))
        else:
            findings.append(f"{file}:1: must be one ruleset, an object in braces")
    if not rulesets and not findings:
        findings.append(f"{FOLDER}:1: holds no ruleset, so nothing is protected")
    return rulesets, findings


def lines_of(text: str) -> dict[Place, int]:
    """Return the line on which each place of the JSON in `text` begins; it must be valid."""
    lines: dict[Place, int] = {(): 1}
    for place, line, is_key in _places(text):
        if is_key:
            lines[place] = line
        else:
            lines.setdefault(place, line)
    return lines


def repeated_keys(text: str) -> Iterator[tuple[int, Place]]:
    """Yield line and place of each key that its object has already; JSON keeps the last."""
    seen: set[Place] = set()
    for place, line, is_key in _places(text):
        if is_key and place in seen:
            yield line, place
        if is_key:
            seen.add(place)


def _places(text: str) -> Iterator[tuple[Place, int, bool]]:
    """Yield the place and the line of each key, which is True, and of each value."""
    open_places: list[tuple[str, Place]] = []
    place: Place = ()
    previous = ""
    for token in _TOKEN.finditer(text):
        word, line = token[0], text.count("\n", 0, token.start()) + 1
        if word in "{[":
            yield place, line, False
            open_places.append((word, place))
            place = (*place, 0) if word == "[" else place
        elif word in "}]":
            place = open_places.pop()[1]
        elif word == ",":
            container, outer = open_places[-1]
            last = place[-1]
            place = (*outer, int(last) + 1) if container == "[" else outer
        elif word != ":" and open_places[-1][0] == "{" and previous in "{,":
            place = (*open_places[-1][1], json.loads(word))
            yield place, line, True
        elif word != ":":
            yield place, line, False
        previous = word


def findings(root: Path) -> list[str]:
    """Return what is wrong with the rulesets in `root`, each with file and line."""
    rulesets, found = read(root)
    names: dict[str, Path] = {}
    for ruleset in rulesets:
        shape = list(_shape_findings(ruleset))
        # Of what is not in its shape, the name and the checks can't be read.
        found += shape or [*_taken_name(ruleset, names), *_missing_checks(ruleset, root)]
    return found or list(_unprotected(rulesets))


def _taken_name(ruleset: Ruleset, names: dict[str, Path]) -> Iterator[str]:
    """Note the name of `ruleset` in `names`, and yield a finding if it is there already."""
    name = ruleset.body["name"]
    if name in names:
        yield ruleset.finding(("name",), f"{names[name]} has the name {name!r} already")
    names[name] = ruleset.file


def _unprotected(rulesets: Iterable[Ruleset]) -> Iterator[str]:
    """Yield a finding if the default branch takes what `REQUIRED_CHECK` has not passed."""
    requiring = [each for each in rulesets if _requires_the_check(each)]
    if not requiring:
        yield (
            f"{FOLDER}:1: no ruleset of branches requires the check {REQUIRED_CHECK!r}, so what "
            "fails it can be merged"
        )
    elif not any(_is_of_the_default_branch(each) for each in requiring):
        yield requiring[0].finding(
            ("conditions", "ref_name"),
            f"the check {REQUIRED_CHECK!r} is not required on the default branch, as no ruleset "
            f"that requires it includes {_DEFAULT_BRANCH} and excludes nothing that is it",
        )


def _requires_the_check(ruleset: Ruleset) -> bool:
    contexts = [
        check["context"]
        for rule, _ in _entries(ruleset, ("rules",))
        for _, check in _entries(ruleset, _checks_of(rule))
    ]
    return ruleset.body["target"] == "branch" and REQUIRED_CHECK in contexts


def _is_of_the_default_branch(ruleset: Ruleset) -> bool:
    names = ruleset.body["conditions"]["ref_name"]
    own_words = {_DEFAULT_BRANCH, _ALL_BRANCHES}
    # GitHub's `**/` is any number of folders, none included.
    patterns = [each.replace("**/", "*") for each in names["exclude"]]
    is_excluded = any(each in own_words or fnmatchcase(_MAIN, each) for each in patterns)
    return not own_words.isdisjoint(names["include"]) and not is_excluded


def _shape_findings(ruleset: Ruleset) -> Iterator[str]:
    for line, place in ruleset.twice:
        yield f"{ruleset.file}:{line}: {_said(place)} stands twice; keep one"
    yield from _keys(ruleset, (), ruleset.body, KEYS)
    for key, values in VALUES.items():
        value = ruleset.body.get(key)
        if key in ruleset.body and value not in values:
            shown = reprlib.repr(value)
            yield ruleset.finding((key,), f"{key} is {shown}; expected {' or '.join(values)}")
    for place, entry in _entries(ruleset, ("bypass_actors",)):
        yield from _keys(ruleset, place, entry, ACTOR_KEYS)
    seen: set[object] = set()
    for place, rule in _entries(ruleset, ("rules",)):
        kind = rule.get("type") if isinstance(rule, dict) else None
        if not isinstance(kind, str) or kind not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            yield ruleset.finding(
                (*place, "type"), f"rule type {reprlib.repr(kind)} is unknown; known: {known}"
            )
            continue
        if kind in seen:
            yield ruleset.finding((*place, "type"), f"a second rule of type {kind!r}")
        seen.add(kind)
        wanted = {"type": _TEXT, "parameters": PARAMETERS[kind]}
        if not PARAMETERS[kind]:
            del wanted["parameters"]
        yield from _keys(ruleset, place, rule, wanted)
        for check_place, check in _entries(ruleset, _checks_of(place)):
            yield from _keys(ruleset, check_place, check, CHECK_KEYS)


def _checks_of(rule: Place) -> Place:
    return (*rule, "parameters", "required_status_checks")


def _keys(
    ruleset: Ruleset, place: Place, value: object, wanted: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a finding for each key of `value` that is unknown, not there, or of another kind."""
    if not isinstance(value, dict):
        yield ruleset.finding(place, f"{_said(place)} must be an object in braces")
        return
    for key in value.keys() - wanted.keys():
        known = ", ".join(wanted)
        yield ruleset.finding((*place, key), f"{_said((*place, key))} is unknown; known: {known}")
    for key, inner in wanted.items():
        if key not in value:
            yield ruleset.finding((*place, key), f"{_said((*place, key))} is missing; say it")
        elif not isinstance(inner, str):
            yield from _keys(ruleset, (*place, key), value[key], inner)
        elif not _KINDS[inner](value[key]):
            found = f"{_said((*place, key))} is {reprlib.repr(value[key])}; expected {inner}"
            yield ruleset.finding((*place, key), found)


def _said(place: Place) -> str:
    """Return `place` as people write it: rules[3].parameters."""
    return "".join(map(_said_part, place)).removeprefix(".")


def _said_part(part: str | int) -> str:
    # As JSON a key is one line, and steers no terminal.
    is_word = isinstance(part, str) and part.isidentifier()
    return f".{part}" if is_word else f"[{json.dumps(part)}]"


def _entries(ruleset: Ruleset, place: Place) -> Iterator[tuple[Place, Any]]:
    """Yield the entries of the list at `place` with their places; none where there is no list."""
    value: Any = ruleset.body
    for part in place:
        if isinstance(value, dict):
            value = value.get(str(part))
        else:
            value = value[part] if isinstance(value, list) and isinstance(part, int) else None
    if isinstance(value, list):
        yield from (((*place, number), entry) for number, entry in enumerate(value))


def _missing_checks(ruleset: Ruleset, root: Path) -> list[str]:
    jobs = checks_of_pull_requests(root)
    return [
        ruleset.finding(
            (*place, "context"),
            f"requires the check {check['context']!r}, and {reason}, so no pull request could ever "
            "be merged",
        )
        for rule, _ in _entries(ruleset, ("rules",))
        for place, check in _entries(ruleset, _checks_of(rule))
        if (reason := _why_it_never_reports(check["context"], jobs))
    ]


def _why_it_never_reports(check: str, jobs: Iterable[str]) -> str | None:
    if "${{" in check:
        return "that is an expression, which a ruleset takes for the name itself"
    if check in jobs:
        return None
    known = ", ".join(sorted(jobs)) or "no job"
    return f"no workflow that runs on pull_request has a job of that name (they have: {known})"


def checks_of_pull_requests(root: Path) -> set[str]:
    """Return the names of the checks that the workflows in `root` give every pull request."""
    return {
        name
        for file in sorted((root / WORKFLOWS).glob("*.y*ml"))
        for text in [file.read_text(encoding="utf-8")]
        if _runs_on_pull_requests(text)
        for name in job_names(text)
    }


def _runs_on_pull_requests(workflow: str) -> bool:
    return any(re.search(r"\bpull_request\b", line) for line in _block(workflow, "on"))


def job_names(workflow: str) -> list[str]:
    """Return what the jobs of `workflow` are called as checks, in its order.

    The standard library reads no YAML; a job is a key one step under `jobs:`, and its check has
    its `name:`, or else the key.
    """
    lines = _block(workflow, "jobs")
    step = min((_indent(line) for line in lines), default=0)
    names: list[str] = []
    inner = None
    for line in lines:
        if _indent(line) == step:
            names.append(_scalar(line.split(":")[0]))
            inner = None
            continue
        inner = inner or _indent(line)
        named = re.match(r"\s*name:\s*(.+)", line)
        if named and _indent(line) == inner:
            names[-1] = _scalar(named[1])
    return names


def _block(workflow: str, key: str) -> list[str]:
    """Return the lines under the key of the first column, its own remainder first."""
    block: list[str] = []
    inside = False
    for line in workflow.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if _indent(line) == 0:
            head, _, rest = line.partition(":")
            inside = _scalar(head) == key
            if inside and rest.split("#")[0].strip():
                block.append(f"  {rest.strip()}")
        elif inside:
            block.append(line)
    return block


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _scalar(text: str) -> str:
    return re.sub(r"\s+#.*", "", text).strip().strip("\"'")


def differences(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Return how `live`, a ruleset as GitHub gives it, differs from `wanted`, a file's."""
    ours, theirs = _flat(wanted), _flat(live)
    return [
        f"{place}: live {_shown(theirs, place)}, file {_shown(ours, place)}"
        for place in sorted(ours.keys() | theirs.keys())
        if ours.get(place) != theirs.get(place) or (place in ours) != (place in theirs)
    ]


def _shown(values: Mapping[str, object], place: str) -> str:
    return json.dumps(values[place], sort_keys=True) if place in values else "has none"


def _flat(body: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields that we know, by place; where order means nothing there is none."""
    flat: dict[str, object] = {key: body.get(key) for key in ("name", "target", "enforcement")}
    flat["bypass_actors"] = _unordered(body.get("bypass_actors"), ACTOR_KEYS)
    for key in ("include", "exclude"):
        flat[f"conditions.{key}"] = _unordered(body["conditions"]["ref_name"].get(key))
    for rule in body["rules"]:
        kind = rule["type"]
        flat[kind] = True
        parameters = rule.get("parameters") or {}
        for key in PARAMETERS.get(kind, ()):
            of = CHECK_KEYS if key == "required_status_checks" else ()
            flat[f"{kind}.{key}"] = _unordered(parameters.get(key), of)
    return flat


def _unordered(value: Any, keys: Iterable[str] = ()) -> Any:
    """Return a list in one order, its objects with `keys` only; anything else as it is."""
    if not isinstance(value, list):
        return value
    kept = [{key: entry.get(key) for key in keys} if keys else entry for entry in value]
    return sorted(kept, key=lambda entry: json.dumps(entry, sort_keys=True))

"""The rulesets in .github/rulesets: read, checked, and compared with GitHub's.

GitHub adds fields of its own to what it is given (ids, dates, links), so a comparison is over
the fields below, and a file states every one of them: nothing is left to a default.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(".github", "rulesets")
WORKFLOWS = Path(".github", "workflows")

# What GitHub's API takes, as far as the files use it; a list or a scalar has no keys of its own.
KEYS: dict[str, Any] = {
    "name": None,
    "target": None,
    "enforcement": None,
    "bypass_actors": None,
    "conditions": {"ref_name": {"include": None, "exclude": None}},
    "rules": None,
}
PARAMETERS: dict[str, tuple[str, ...]] = {
    "deletion": (),
    "non_fast_forward": (),
    "required_linear_history": (),
    "required_signatures": (),
    "pull_request": (
        "allowed_merge_methods",
        "dismiss_stale_reviews_on_push",
        "require_code_owner_review",
        "require_last_push_approval",
        "required_approving_review_count",
        "required_review_thread_resolution",
    ),
    "required_status_checks": (
        "do_not_enforce_on_create",
        "required_status_checks",
        "strict_required_status_checks_policy",
    ),
    "merge_queue": (
        "check_response_timeout_minutes",
        "grouping_strategy",
        "max_entries_to_build",
        "max_entries_to_merge",
        "merge_method",
        "min_entries_to_merge",
        "min_entries_to_merge_wait_minutes",
    ),
}
CHECK_KEYS = ("context", "integration_id")
ACTOR_KEYS = ("actor_id", "actor_type", "bypass_mode")
VALUES = {
    "target": ("branch", "tag"),
    "enforcement": ("active", "disabled", "evaluate"),
}

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
    """

    file: Path
    body: dict[str, Any]
    lines: Mapping[Place, int]

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
        except (OSError, UnicodeDecodeError) as error:
            findings.append(f"{file}:1: cannot be read: {error}")
            continue
        if isinstance(body, dict):
            rulesets.append(Ruleset(file=file, body=body, lines=lines_of(text)))
        else:
            findings.append(f"{file}:1: must be one ruleset, an object in braces")
    if not rulesets and not findings:
        findings.append(f"{FOLDER}:1: holds no ruleset, so nothing is protected")
    return rulesets, findings


def lines_of(text: str) -> dict[Place, int]:
    """Return the line on which each place of the JSON in `text` begins; it must be valid."""
    lines: dict[Place, int] = {(): 1}
    open_places: list[tuple[str, Place]] = []
    place: Place = ()
    previous = ""
    for token in _TOKEN.finditer(text):
        word, line = token[0], text.count("\n", 0, token.start()) + 1
        if word in "{[":
            lines.setdefault(place, line)
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
            lines[place] = line
        elif word != ":":
            lines.setdefault(place, line)
        previous = word
    return lines


def findings(root: Path) -> list[str]:
    """Return what is wrong with the rulesets in `root`, each with file and line."""
    rulesets, found = read(root)
    names: dict[object, Path] = {}
    for ruleset in rulesets:
        name = ruleset.body.get("name")
        if name in names:
            found.append(ruleset.finding(("name",), f"{names[name]} has the name {name!r} already"))
        names[name] = ruleset.file
        shape = list(_shape_findings(ruleset))
        # Of what is not in its shape, the checks can't be read.
        found += shape or _missing_checks(ruleset, root)
    return found


def _shape_findings(ruleset: Ruleset) -> Iterator[str]:
    yield from _keys(ruleset, (), ruleset.body, KEYS)
    for key, values in VALUES.items():
        value = ruleset.body.get(key)
        if key in ruleset.body and value not in values:
            yield ruleset.finding((key,), f"{key} is {value!r}; expected {' or '.join(values)}")
    for place, entry in _entries(ruleset, ("bypass_actors",)):
        yield from _keys(ruleset, place, entry, dict.fromkeys(ACTOR_KEYS))
    seen: set[object] = set()
    for place, rule in _entries(ruleset, ("rules",)):
        kind = rule.get("type") if isinstance(rule, dict) else None
        if not isinstance(kind, str) or kind not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            yield ruleset.finding(
                (*place, "type"), f"rule type {kind!r} is unknown; known: {known}"
            )
            continue
        if kind in seen:
            yield ruleset.finding((*place, "type"), f"a second rule of type {kind!r}")
        seen.add(kind)
        wanted = {"type": None, "parameters": dict.fromkeys(PARAMETERS[kind])}
        if not PARAMETERS[kind]:
            del wanted["parameters"]
        yield from _keys(ruleset, place, rule, wanted)
        for check_place, check in _entries(ruleset, _checks_of(place)):
            yield from _keys(ruleset, check_place, check, dict.fromkeys(CHECK_KEYS))


def _checks_of(rule: Place) -> Place:
    return (*rule, "parameters", "required_status_checks")


def _keys(
    ruleset: Ruleset, place: Place, value: object, wanted: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a finding for each key of `value` that is unknown and each that is not there."""
    if not isinstance(value, dict):
        yield ruleset.finding(place, f"{_said(place)} must be an object in braces")
        return
    for key in value.keys() - wanted.keys():
        known = ", ".join(wanted)
        yield ruleset.finding((*place, key), f"{_said((*place, key))} is unknown; known: {known}")
    for key, inner in wanted.items():
        if key not in value:
            yield ruleset.finding((*place, key), f"{_said((*place, key))} is missing; say it")
        elif inner is not None:
            yield from _keys(ruleset, (*place, key), value[key], inner)


def _said(place: Place) -> str:
    """Return `place` as people write it: rules[3].parameters."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]


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
            f"requires the check {check['context']!r}, and no workflow that runs on pull_request "
            f"has a job of that name (they have: {', '.join(sorted(jobs)) or 'no job'}), so no "
            "pull request could ever be merged",
        )
        for rule, _ in _entries(ruleset, ("rules",))
        for place, check in _entries(ruleset, _checks_of(rule))
        if check["context"] not in jobs
    ]


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


def _unordered(value: Any, keys: tuple[str, ...] = ()) -> Any:
    """Return a list in one order, its objects with `keys` only; anything else as it is."""
    if not isinstance(value, list):
        return value
    kept = [{key: entry.get(key) for key in keys} if keys else entry for entry in value]
    return sorted(kept, key=lambda entry: json.dumps(entry, sort_keys=True))

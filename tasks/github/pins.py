"""Checks that external models and submodules are pinned to a commit: branches and tags can move.

python -m tasks.github.pins FILE …     checks configurations, their schemas, and .gitmodules

Runs in the tools' environment, which has ruamel.yaml.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from tasks.display import show

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ADDRESS = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")  # as in gates.configuration
_BRANCH = re.compile(r"^\s*(\[.*\]\s*)?branch\s*=\s*(?P<name>.*)$", re.IGNORECASE)
_REPOSITORY, _REVISION = "repo_id", "revision"
_PATTERN = "^[0-9a-f]{40}$"
_WRITE = "write the full 40-digit commit"


def problems(file: Path) -> list[str]:
    """Return a line for each reference in `file` that is not pinned to a commit."""
    text = file.read_text(encoding="utf-8")
    if file.name == ".gitmodules":
        found = _submodule_problems(text)
    elif file.suffix == ".json":
        found = ((1, message) for message in _schema_problems(json.loads(text), ""))
    else:
        try:
            found = _configuration_problems(YAML(typ="rt").load(text))
        except YAMLError as error:
            found = iter([(1, f"is not valid YAML ({' '.join(str(error).split())})")])
    return [f"{file}:{line}: {message}" for line, message in found]


def _submodule_problems(text: str) -> Iterator[tuple[int, str]]:
    """Git already pins a submodule to a commit; `branch` lets an update move past it."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _BRANCH.match(line)
        if found:
            message = f"follows the branch {found['name']}; remove the line: git pins the commit"
            yield number, message


def _configuration_problems(node: Any) -> Iterator[tuple[int, str]]:
    if isinstance(node, CommentedMap):
        names = [key for key in node if str(key).endswith(_REPOSITORY)]
        for key in names:
            if _revision_key(str(key)) not in node:
                yield node.lc.key(key)[0] + 1, f"{key} without {_revision_key(str(key))}; {_WRITE}"
        for key, value in node.items():
            line = node.lc.key(key)[0] + 1
            if str(key).endswith(_REVISION) and not _is_commit(value):
                yield line, f"{key} {value!r} is not a fixed commit; {_WRITE}"
            yield from _value_problems(value, line)
    elif isinstance(node, CommentedSeq):
        for index, value in enumerate(node):
            yield from _value_problems(value, node.lc.item(index)[0] + 1)


def _value_problems(value: Any, line: int) -> Iterator[tuple[int, str]]:
    if isinstance(value, str) and "hf://" in value and not _HUB_ADDRESS.search(value):
        yield line, f"{value} is not a fixed commit; {_WRITE} after the name: hf://…/NAME@COMMIT/…"
    yield from _configuration_problems(value)


def _is_commit(value: Any) -> bool:
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def _revision_key(name: str) -> str:
    return name.removesuffix(_REPOSITORY) + _REVISION


def _schema_problems(node: Any, where: str) -> Iterator[str]:
    """A field that names a model needs a required revision field that accepts only a commit."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, each in enumerate(node):
            yield from _schema_problems(each, f"{where}/{index}")
    if not isinstance(node, Mapping):
        return
    properties: Mapping[str, Any] = node.get("properties") or {}
    for name in properties:
        if name.endswith(_REPOSITORY):
            revision = _revision_key(name)
            is_required = revision in node.get("required", [])
            if not is_required or properties[revision].get("pattern") != _PATTERN:
                yield f"{where}: {name} needs a required field {revision} with pattern {_PATTERN}"
    for key, each in node.items():
        yield from _schema_problems(each, f"{where}/{key}")


def main(files: Iterable[str]) -> int:
    """Print a line for each reference that is not pinned; return 1 if there is one."""
    found = [problem for name in files for problem in problems(Path(name))]
    show(*found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

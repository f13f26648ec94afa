"""What comes from outside is named by a commit: a branch or a tag can be moved under us.

python -m tasks.github.pins FILE …     checks configurations, their schemas, and .gitmodules

Run by the Python of the tools' environment, which has ruamel.yaml.
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
_HUB_ADDRESS = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")  # as gates.configuration has it
_BRANCH = re.compile(r"^\s*(\[.*\]\s*)?branch\s*=\s*(?P<name>.*)$", re.IGNORECASE)
_REPOSITORY, _REVISION = "repo_id", "revision"
_PATTERN = "^[0-9a-f]{40}$"
_WRITE = "write all 40 digits of a commit"


def problems(file: Path) -> list[str]:
    """Return a line for each thing in `file` that is not named by a commit."""
    text = file.read_text(encoding="utf-8")
    if file.name == ".gitmodules":
        found = _of_submodules(text)
    elif file.suffix == ".json":
        found = ((1, what) for what in _of_schema(json.loads(text), ""))
    else:
        try:
            found = _of_configuration(YAML(typ="rt").load(text))
        except YAMLError as error:
            found = iter([(1, f"is no YAML ({' '.join(str(error).split())})")])
    return [f"{file}:{line}: {what}" for line, what in found]


def _of_submodules(text: str) -> Iterator[tuple[int, str]]:
    """A submodule is a commit already; `branch` is for moving on to whatever is newest there."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _BRANCH.match(line)
        if found:
            what = f"follows the branch {found['name']}; take the line out: git keeps the commit"
            yield number, what


def _of_configuration(node: Any) -> Iterator[tuple[int, str]]:
    if isinstance(node, CommentedMap):
        names = [key for key in node if str(key).endswith(_REPOSITORY)]
        for key in names:
            if _revision_of(str(key)) not in node:
                yield node.lc.key(key)[0] + 1, f"{key} without {_revision_of(str(key))}; {_WRITE}"
        for key, value in node.items():
            line = node.lc.key(key)[0] + 1
            if str(key).endswith(_REVISION) and not _is_commit(value):
                yield line, f"{key} {value!r} can be moved; {_WRITE}"
            yield from _of_value(value, line)
    elif isinstance(node, CommentedSeq):
        for index, value in enumerate(node):
            yield from _of_value(value, node.lc.item(index)[0] + 1)


def _of_value(value: Any, line: int) -> Iterator[tuple[int, str]]:
    if isinstance(value, str) and "hf://" in value and not _HUB_ADDRESS.search(value):
        yield line, f"{value} can be moved; {_WRITE} behind the name: hf://…/NAME@COMMIT/…"
    yield from _of_configuration(value)


def _is_commit(value: Any) -> bool:
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def _revision_of(name: str) -> str:
    return name.removesuffix(_REPOSITORY) + _REVISION


def _of_schema(node: Any, where: str) -> Iterator[str]:
    """A field that names a model needs one beside it that takes a commit and nothing else."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, each in enumerate(node):
            yield from _of_schema(each, f"{where}/{index}")
    if not isinstance(node, Mapping):
        return
    properties: Mapping[str, Any] = node.get("properties") or {}
    for name in properties:
        if name.endswith(_REPOSITORY):
            revision = _revision_of(name)
            is_required = revision in node.get("required", [])
            if not is_required or properties[revision].get("pattern") != _PATTERN:
                yield f"{where}: {name} needs a field {revision} of the pattern {_PATTERN}"
    for key, each in node.items():
        yield from _of_schema(each, f"{where}/{key}")


def main(files: Iterable[str]) -> int:
    """Print a line for each thing that can be moved; return 1 if there is one."""
    found = [problem for name in files for problem in problems(Path(name))]
    show(*found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

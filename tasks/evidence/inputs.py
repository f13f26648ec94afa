"""A session's declared inputs: their digests, and whether it reads any other files.

CHECK_INPUTS=1 nox -s smoke    fails if the session reads a file that its inputs do not cover
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tasks import git
from tasks.evidence.observer import sitecustomize as observer
from tasks.project import ROOT

# If compiled code exists, Python opens only that, and checks only the modification time of the
# source.
_COMPILED = re.compile(r"__pycache__/([^/.]+)\.[^/]*\.pyc$")


def covers(inputs: Iterable[str], file: str) -> bool:
    """Whether `file` is one of `inputs` or in one of these folders."""
    return any(each in {".", file} or file.startswith(f"{each.rstrip('/')}/") for each in inputs)


def digests(inputs: Sequence[str], root: Path = ROOT) -> dict[str, str] | None:
    """Return the SHA-256 of each file that `inputs` cover; None outside a git repository."""
    listed = git.output("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    if listed is None:
        return None
    names = sorted({name for name in listed.split("\0") if name and covers(inputs, name)})
    return {name: _digest(root / name) for name in names if os.path.lexists(root / name)}


def _digest(file: Path) -> str:
    if file.is_symlink():
        return hashlib.sha256(os.fsencode(file.readlink())).hexdigest()
    if file.is_dir():
        return "a repository of its own"  # a submodule
    return hashlib.sha256(file.read_bytes()).hexdigest()


def is_checked() -> bool:
    """Whether the user asked to check which files the session opens."""
    return os.environ.get("CHECK_INPUTS", "").lower() in {"1", "true"}


@contextlib.contextmanager
def observed(opened: set[str]) -> Iterator[None]:
    """On exit, add to `opened` the files that this process and its Python children read.

    The paths are absolute.
    """
    with tempfile.TemporaryDirectory() as log:
        os.environ[observer.LOG] = log
        observer.start(log)
        try:
            yield
        finally:
            observer.stop()
            del os.environ[observer.LOG]
            for file in Path(log).glob("*.opened"):
                opened.update(filter(None, os.fsdecode(file.read_bytes()).split("\0")))


def variables_of_observed(outer: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a command needs to be observed; none if `outer` is not."""
    return {"PYTHONPATH": observer.FOLDER} if observer.LOG in outer else {}


def undeclared(inputs: Sequence[str], opened: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return the tracked files among `opened` that `inputs` do not cover."""
    tracked = set((git.output("ls-files", "-z", cwd=root) or "").split("\0"))
    top = os.path.realpath(root)
    # Links in an environment lead to the repository's packages.
    real = {os.path.realpath(path) for path in opened}
    inside = (path.removeprefix(f"{top}/") for path in real if path.startswith(f"{top}/"))
    read = {_COMPILED.sub(r"\1.py", name) for name in inside}
    return sorted(name for name in read & tracked if not covers(inputs, name))

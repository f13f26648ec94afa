"""What one run of a session was: its commands, packages, inputs and result, as a file.

Paths in it are relative to the root, so the manifests of two checkouts compare equal.
"""

import hashlib
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from platform import python_version
from typing import Any, Literal

from tasks.display import harmless
from tasks.environments import uv
from tasks.evidence import inputs
from tasks.project import ROOT

FOLDER = ROOT / "artifacts" / "manifests"
FORMAT = "manifest/1"

Result = Literal["passed", "failed", "skipped"]
RESULTS: tuple[Result, ...] = ("passed", "failed", "skipped")

# Of the user's variables those that reach a session and can change what it computes. None of
# them can hold a password: manifests are uploaded.
_RELEVANT_VARIABLES = re.compile(
    r"CUBLAS_WORKSPACE_CONFIG|CUDA_VISIBLE_DEVICES|HYPOTHESIS_PROFILE|LC_ALL|MKL_NUM_THREADS"
    r"|NVIDIA_TF32_OVERRIDE|OMP_NUM_THREADS|PYTHON(HASHSEED|IOENCODING|UTF8)|SOURCE_DATE_EPOCH|TZ"
    r"|PYTORCH_(ALLOC_CONF|CUDA_ALLOC_CONF|NO_CUDA_MEMORY_CACHING)|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)


class DamagedManifestError(Exception):
    """A file that should be a manifest and is none; the message names it and can be printed."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """An environment in which commands ran.

    Args:
        python: its interpreter, with the patch version.
        requirements: SHA-256 of the requirements that the lock exports for it.
        packages: what is installed, with versions.
    """

    python: str
    requirements: str
    packages: dict[str, str]


@dataclass(kw_only=True)
class Manifest:
    """One run of a session.

    Args:
        session: its name, that of a matrix cell with the cell.
        tiers: the tiers that it belongs to.
        result: how it ended.
        reason: why it failed or was skipped.
        seconds: how long it took, environments included.
        platform: operating system and processor.
        interpreter: the Python that ran Nox.
        tools: versions of Nox and, if it made an environment, of uv.
        environments: the environments that it used, by their folder.
        commands: how it was called itself, then the command lines that it ran, with the
            variables that it set for each.
        variables: the user's variables that can change what it computes.
        inputs: SHA-256 of each file of its declared inputs; None where git knows no files.
    """

    session: str
    tiers: list[str]
    result: Result = "failed"
    reason: str | None = None
    seconds: float = 0.0
    platform: str = f"{sys.platform}-{os.uname().machine}"
    interpreter: str = field(default_factory=python_version)
    tools: dict[str, str] = field(default_factory=dict)
    environments: dict[str, Made] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] | None = None

    @property
    def has_arguments(self) -> bool:
        """Whether something stood after --, with which the session may have done anything."""
        return " -- " in self.commands[0]


_current: Manifest | None = None


def begin(session: str, tiers: Iterable[str], declared: Sequence[str], nox: str) -> Manifest:
    """Start the manifest of `session`; until `end`, what it runs is noted there.

    That of an earlier run goes now: if this run is killed, it must not be taken for its own.
    """
    global _current  # noqa: PLW0603 - Nox runs one session at a time in a process
    _current = Manifest(session=session, tiers=list(tiers), tools={"nox": nox})
    _current.variables = {
        name: relative(value)
        for name, value in sorted(os.environ.items())
        if _RELEVANT_VARIABLES.fullmatch(name)
    }
    file_of(session).unlink(missing_ok=True)
    # Now, not at the end: `lint` mends what it reads.
    _current.inputs = inputs.digests(declared)
    return _current


def end() -> None:
    """Note nothing more."""
    global _current  # noqa: PLW0603 - as in `begin`
    _current = None


def note_command(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Note a command that the current session runs, with the variables it sets for it."""
    if _current is not None:
        settings = [f"{name}={shlex.quote(relative(value))}" for name, value in variables.items()]
        words = [shlex.quote(relative(word)) for word in command]
        _current.commands.append(" ".join([*settings, *words]))


def note_environment(name: str, folder: Path, requirements: str) -> None:
    """Note an environment that the current session uses."""
    if _current is not None:
        _current.environments[name] = Made(
            python=_python_of(folder),
            requirements=hashlib.sha256(requirements.encode()).hexdigest(),
            packages=_packages_in(folder),
        )
        _current.tools["uv"] = uv.version()


def note_image(prefix: str, python: str, torch: str) -> None:
    """Note an environment that is not the lock's, of which only this much is known."""
    if _current is not None:
        packages = {"torch": torch}
        _current.environments[relative(prefix)] = Made(
            python=python, requirements="not from the lock", packages=packages
        )


def _python_of(folder: Path) -> str:
    settings = (folder / "pyvenv.cfg").read_text(encoding="utf-8")
    found = re.search(r"^version(?:_info)? = (\S+)$", settings, re.MULTILINE)
    return found[1] if found else "unknown"


def _packages_in(folder: Path) -> dict[str, str]:
    """Return what is installed, which the requirements with their markers do not tell."""
    installed = sorted(found.stem for found in folder.glob("lib/*/site-packages/*.dist-info"))
    return {name: version for name, _, version in (each.partition("-") for each in installed)}


def relative(text: str) -> str:
    """Return `text` without what differs between machines: where the root and the home are."""
    root, home = re.escape(str(ROOT)), re.escape(os.path.expanduser("~"))  # noqa: PTH111 - of no home it makes "~", and Path.home an error
    start, stop = r"(?<![\w/.-])", r"(?![\w.-])"
    text = re.sub(rf"{start}{root}/", "", text)
    text = re.sub(rf"{start}{root}{stop}", ".", text)
    return re.sub(rf"{start}{home}{stop}", "~", text)


def file_of(session: str, folder: Path = FOLDER) -> Path:
    """Return the manifest's file: `matrix(a-b)` has a name that needs no quotes anywhere."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', session).strip('-')}.json"


def write(manifest: Manifest, folder: Path = FOLDER) -> Path:
    """Write `manifest` whole or not at all, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = file_of(manifest.session, folder)
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n"
    descriptor, new = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(new).chmod(0o644)
        Path(new).replace(file)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
    return file


def read(file: Path) -> Manifest:
    """Return the manifest in `file`.

    Raises:
        DamagedManifestError: it is none, or one of another format.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT:
            msg = harmless(f"{file}: has the format {found}, and {FORMAT} is expected")
            raise DamagedManifestError(msg)
        made = {name: Made(**value) for name, value in content.pop("environments").items()}
        manifest = Manifest(**content, environments=made)
        _check(manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = harmless(f"{file}: not a whole manifest ({type(error).__name__}: {error})")
        raise DamagedManifestError(msg) from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Check what JSON does not: the kinds of what others take apart, and that it is a run."""
    made = manifest.environments.values()
    # None stands where it may stand only: [] or "" would be no inputs that anybody knows.
    digests = {} if manifest.inputs is None else manifest.inputs
    reason = "" if manifest.reason is None else manifest.reason
    mappings = [manifest.tools, manifest.variables, digests, *(each.packages for each in made)]
    lists = [manifest.tiers, manifest.commands]
    _check_kind(dict, mappings)
    _check_kind(list, lists)
    _check_kind(str, [manifest.session, manifest.platform, manifest.interpreter, reason])
    _check_kind(str, [text for each in made for text in (each.python, each.requirements)])
    _check_kind(str, [value for each in mappings for value in each.values()])
    _check_kind(str, [value for each in lists for value in each])
    _check_kind(float, [manifest.seconds])
    is_duration = 0 <= manifest.seconds < math.inf
    if manifest.result not in RESULTS or not is_duration or not manifest.commands:
        msg = f"result {manifest.result!r}, {manifest.seconds} s, commands {manifest.commands}"
        raise ValueError(msg)


def _check_kind(kind: type, values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, kind):
            msg = f"{value!r:.80} stands where it cannot"
            raise TypeError(msg)

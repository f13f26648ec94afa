"""The manifest of one session run: its commands, packages, inputs and result.

Paths are relative to the root, so that manifests from two checkouts can be compared.
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

# The user's variables that reach a session and can change what it computes. None can contain a
# password, since manifests are uploaded.
_RELEVANT_VARIABLES = re.compile(
    r"CUBLAS_WORKSPACE_CONFIG|CUDA_VISIBLE_DEVICES|HYPOTHESIS_PROFILE|LC_ALL|MKL_NUM_THREADS"
    r"|NVIDIA_TF32_OVERRIDE|OMP_NUM_THREADS|PYTHON(HASHSEED|IOENCODING|UTF8)|SOURCE_DATE_EPOCH|TZ"
    r"|PYTORCH_(ALLOC_CONF|CUDA_ALLOC_CONF|NO_CUDA_MEMORY_CACHING)|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)


class DamagedManifestError(Exception):
    """A file is not a valid manifest; the message names the file and is safe to print."""


@dataclass(frozen=True, kw_only=True)
class UsedEnvironment:
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
        session: its name, including the part, as in `matrix(a-b)`.
        tiers: the tiers that it belongs to.
        result: how it ended.
        reason: why it failed or was skipped.
        seconds: how long it took, including the preparation of environments.
        platform: operating system and processor.
        interpreter: the Python that ran Nox.
        tools: the versions of Nox and, if it used an environment, of uv.
        environments: the environments that it used, by folder.
        commands: the call of the session, then the command lines that it ran, each with the
            variables that it set.
        variables: the user's variables that can change what it computes.
        inputs: SHA-256 of each file of its declared inputs; None outside a git repository.
    """

    session: str
    tiers: list[str]
    result: Result = "failed"
    reason: str | None = None
    seconds: float = 0.0
    platform: str = f"{sys.platform}-{os.uname().machine}"
    interpreter: str = field(default_factory=python_version)
    tools: dict[str, str] = field(default_factory=dict)
    environments: dict[str, UsedEnvironment] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] | None = None

    @property
    def has_arguments(self) -> bool:
        """Whether the call had arguments after --, which may change what the session does."""
        return " -- " in self.commands[0]


_current: Manifest | None = None


def begin(session: str, tiers: Iterable[str], declared: Sequence[str], nox: str) -> Manifest:
    """Start the manifest of `session`; until `end`, the commands that it runs are added.

    Deletes the manifest of an earlier run first, so that a killed run leaves none.
    """
    global _current  # noqa: PLW0603 - Nox runs one session at a time in a process
    _current = Manifest(session=session, tiers=list(tiers), tools={"nox": nox})
    _current.variables = {
        name: relative(value)
        for name, value in sorted(os.environ.items())
        if _RELEVANT_VARIABLES.fullmatch(name)
    }
    file_of(session).unlink(missing_ok=True)
    # Now rather than at the end, since `lint` fixes the files that it reads.
    _current.inputs = inputs.digests(declared)
    return _current


def end() -> None:
    """Stop adding to the current manifest."""
    global _current  # noqa: PLW0603 - as in `begin`
    _current = None


def note_command(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Record a command of the current session and the variables that it sets for the command."""
    if _current is not None:
        settings = [f"{name}={shlex.quote(relative(value))}" for name, value in variables.items()]
        words = [shlex.quote(relative(word)) for word in command]
        _current.commands.append(" ".join([*settings, *words]))


def note_environment(name: str, folder: Path, requirements: str) -> None:
    """Record an environment that the current session uses."""
    if _current is not None:
        _current.environments[name] = UsedEnvironment(
            python=_python_of(folder),
            requirements=hashlib.sha256(requirements.encode()).hexdigest(),
            packages=_packages_in(folder),
        )
        _current.tools["uv"] = uv.version()


def note_image(prefix: str, python: str, torch: str) -> None:
    """Record an environment that was not installed from the lock, such as a GPU image's."""
    if _current is not None:
        packages = {"torch": torch}
        _current.environments[relative(prefix)] = UsedEnvironment(
            python=python, requirements="not from the lock", packages=packages
        )


def _python_of(folder: Path) -> str:
    settings = (folder / "pyvenv.cfg").read_text(encoding="utf-8")
    found = re.search(r"^version(?:_info)? = (\S+)$", settings, re.MULTILINE)
    return found[1] if found else "unknown"


def _packages_in(folder: Path) -> dict[str, str]:
    """Return the installed versions, which the requirements do not show because of markers."""
    installed = sorted(found.stem for found in folder.glob("lib/*/site-packages/*.dist-info"))
    return {name: version for name, _, version in (each.partition("-") for each in installed)}


def relative(text: str) -> str:
    """Return `text` with paths relative to the root or to ~, so that machines can be compared."""
    root, home = re.escape(str(ROOT)), re.escape(os.path.expanduser("~"))  # noqa: PTH111 - without a home, it returns "~", but Path.home raises
    start, end = r"(?<![\w/.-])", r"(?![\w.-])"
    text = re.sub(rf"{start}{root}/", "", text)
    text = re.sub(rf"{start}{root}{end}", ".", text)
    return re.sub(rf"{start}{home}{end}", "~", text)


def file_of(session: str, folder: Path = FOLDER) -> Path:
    """Return the manifest's file, whose name never needs quoting, even for `matrix(a-b)`."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', session).strip('-')}.json"


def write(manifest: Manifest, folder: Path = FOLDER) -> Path:
    """Write `manifest` atomically, and return its file."""
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
        DamagedManifestError: it is not a manifest, or has another format.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT:
            msg = harmless(f"{file}: has the format {found}; expected {FORMAT}")
            raise DamagedManifestError(msg)
        made = {
            name: UsedEnvironment(**value) for name, value in content.pop("environments").items()
        }
        manifest = Manifest(**content, environments=made)
        _check(manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = harmless(
            f"{file}: not a valid manifest ({type(error).__name__}: {error}); delete it and run "
            "the session again"
        )
        raise DamagedManifestError(msg) from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Check the types that other code relies on, and that the values describe a run."""
    made = manifest.environments.values()
    # Replace only None: `or` would also accept [] or "" in its place.
    digests = {} if manifest.inputs is None else manifest.inputs
    reason = "" if manifest.reason is None else manifest.reason
    mappings = [manifest.tools, manifest.variables, digests, *(each.packages for each in made)]
    lists = [manifest.tiers, manifest.commands]
    _check_type(dict, mappings)
    _check_type(list, lists)
    _check_type(str, [manifest.session, manifest.platform, manifest.interpreter, reason])
    _check_type(str, [text for each in made for text in (each.python, each.requirements)])
    _check_type(str, [value for each in mappings for value in each.values()])
    _check_type(str, [value for each in lists for value in each])
    _check_type(float, [manifest.seconds])
    is_duration = 0 <= manifest.seconds < math.inf
    if manifest.result not in RESULTS or not is_duration or not manifest.commands:
        msg = f"result {manifest.result!r}, {manifest.seconds} s, commands {manifest.commands}"
        raise ValueError(msg)


def _check_type(expected: type, values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, expected):
            msg = f"found {value!r:.80}; expected {expected.__name__}"
            raise TypeError(msg)

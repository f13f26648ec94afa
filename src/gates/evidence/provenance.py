"""The provenance of a checkpoint: an in-toto Statement (v1) with a SLSA predicate (v1).

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://slsa.dev/spec/v1.0/provenance
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from gates.configuration import first_problem
from gates.errors import GateInputError
from gates.evidence.statement import (
    BUILD_TYPE,
    BUILDER,
    FIRST_LIBRARY,
    IS_BUILD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Statement,
    is_checkpoint,
)
from gates.files import sha256, write_text


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """The source code of a run.

    Args:
        commit: the git commit, or None outside a repository.
        diff_digest: SHA-256 of the names and contents of the files that differ from the commit;
            None if none does.
        lock_digest: SHA-256 of uv.lock, or None if there is none.
    """

    commit: str | None
    diff_digest: str | None
    lock_digest: str | None

    @property
    def digests(self) -> dict[str, str | None]:
        """Its digests, by their names in a statement."""
        return {
            "source": self.commit,
            "source-diff": self.diff_digest,
            "uv.lock": self.lock_digest,
        }

    @property
    def is_clean(self) -> bool:
        """Whether the source was exactly that of the commit."""
        return self.commit is not None and self.diff_digest is None


def source_state(folder: Path) -> SourceState:
    """Return the state of the repository that `folder` is in.

    Raises:
        GateInputError: git cannot compare the repository with its commit.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if top is None or commit is None:
        return SourceState(commit=None, diff_digest=None, lock_digest=None)
    root = Path(top.strip())
    lock = root / "uv.lock"
    return SourceState(
        commit=commit.strip(),
        diff_digest=_diff_digest(root),
        lock_digest=sha256(lock) if lock.exists() else None,
    )


def why_no_commit(folder: Path) -> str | None:
    """Return git's reason why `folder` has no commit; None if it has one."""
    try:
        # In a repository without commits, git log says so; rev-parse calls HEAD ambiguous.
        result = _run_git(folder, "log", "--max-count=1", "--format=%H")
    except OSError as error:
        return f"git cannot be run ({error.strerror})"
    if result.returncode == 0:
        return None
    return " ".join(result.stderr.decode(errors="replace").split())


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A part of a run, from a start or resumption to the next interruption or the end.

    Args:
        first_step: number of optimiser steps already taken when it began.
        started: when it began, with a time zone.
        source: the source code it ran.
        runtime: versions and hardware, by name.
    """

    first_step: int
    started: datetime
    source: SourceState
    runtime: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "started": self.started.isoformat(timespec="seconds")}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the attempt that `document` describes."""
        return cls(
            first_step=document["first_step"],
            started=datetime.fromisoformat(document["started"]),
            source=SourceState(**document["source"]),
            runtime=dict(document["runtime"]),
        )


def machine() -> dict[str, str]:
    """Return this machine's operating system, processor, cores and Python version."""
    return {
        "os": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The facts about a run that its provenance states.

    Args:
        run_id: the run's name.
        config: all its parameters.
        data_digest: SHA-256 of the training data.
        determinism: seeds and flags, by name.
        attempts: its attempts in order; one if it was never interrupted.
        finished: when it ended.
        library: the model's library by its name on the Hugging Face Hub, such as `pytorch` or
            `sklearn`.
        package: the project that was trained; the bill of materials lists its dependencies.
    """

    run_id: str
    config: Mapping[str, Any]
    data_digest: str
    determinism: Mapping[str, str]
    attempts: Sequence[Attempt]
    finished: datetime
    library: str
    package: str | None = None


def statement(checkpoint: Path, run: TrainingRun) -> dict[str, Any]:
    """Return the provenance of the file `checkpoint`, produced by `run`.

    Source and runtime describe the last attempt. The earlier attempts are listed, and the run is
    dirty if any attempt was.

    Raises:
        GateInputError: the checkpoint cannot be read.
    """
    *earlier, last = run.attempts
    dependencies = [
        {"name": name, "digest": {"gitCommit" if name == "source" else "sha256": digest}}
        for name, digest in {"data": run.data_digest, **last.source.digests}.items()
        if digest
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": checkpoint.name, "digest": {"sha256": sha256(checkpoint)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"config": run.config},
                "internalParameters": {
                    "determinism": dict(run.determinism),
                    "runtime": dict(last.runtime),
                    "dirty": not all(attempt.source.is_clean for attempt in run.attempts),
                    "earlierAttempts": [attempt.document() for attempt in earlier],
                    "library": run.library,
                    **({"package": run.package} if run.package else {}),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {
                    "invocationId": run.run_id,
                    "startedOn": run.attempts[0].started.isoformat(timespec="seconds"),
                    "finishedOn": run.finished.isoformat(timespec="seconds"),
                },
            },
        },
    }


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write a statement to `file` as JSON."""
    write_text(file, json.dumps(document, indent=2) + "\n")


def read(file: Path) -> dict[str, Any]:
    """Return the statement in `file`.

    Raises:
        GateInputError: the file is missing, damaged, or the provenance of something else.
    """
    try:
        content = file.read_text(encoding="utf-8")
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{file}: not readable as provenance ({error}); name a run's provenance.json"
        raise GateInputError(msg) from error
    _check_kind(document, file)
    try:
        Statement.model_validate_json(content)
    except ValidationError as error:
        msg = f"{file}: not the provenance of a training run ({first_problem(error)})"
        raise GateInputError(msg) from error
    return dict(document)


def _check_kind(document: Any, file: Path) -> None:
    """Refuse a statement that is not about a training run, as opposed to a damaged one."""
    with contextlib.suppress(KeyError, TypeError):
        build = document["predicate"]["buildDefinition"]["buildType"]
        kinds = (document["_type"], document["predicateType"])
        if kinds != (STATEMENT_TYPE, PREDICATE_TYPE) or not re.match(IS_BUILD_TYPE, build):
            msg = (
                f"{file}: describes {build}, not a training run; name the provenance.json of a run"
            )
            raise GateInputError(msg)


def read_of_run(run: Path) -> dict[str, Any]:
    """Return the provenance of the checkpoint in the folder `run`.

    Raises:
        GateInputError: it cannot be read, names no data, or is about another checkpoint.
    """
    file = run / "provenance.json"
    document = read(file)
    checkpoint = run / checkpoint_name(document, file)
    expected, found = subject_digest(document), sha256(checkpoint)
    if expected != found:
        msg = f"{file}: is about checkpoint {expected[:12]}, but {checkpoint} is {found[:12]}; "
        msg += "one of them was changed: train again"
        raise GateInputError(msg)
    if "data" not in facts(document):
        msg = f"{file}: names no data, so the model's training data is unknown; train again"
        raise GateInputError(msg)
    return document


def checkpoint_name(document: Mapping[str, Any], file: Path) -> str:
    """Return the name of the checkpoint that the statement in `file` is about.

    Raises:
        GateInputError: it is not the name of a checkpoint in the same folder.
    """
    name: str = document["subject"][0]["name"]
    if not is_checkpoint(name):
        msg = f"{file}: names the checkpoint {name}; expected checkpoint with a suffix, such as "
        msg += "checkpoint.pt; train again"
        raise GateInputError(msg)
    return name


def package(document: Mapping[str, Any]) -> str | None:
    """Return the project that was trained; None if an earlier version wrote the statement."""
    internal = document["predicate"]["buildDefinition"]["internalParameters"]
    found: str | None = internal.get("package")
    return found


def library(document: Mapping[str, Any]) -> str:
    """Return the model's library, by its name on the Hugging Face Hub."""
    internal = document["predicate"]["buildDefinition"]["internalParameters"]
    found: str = internal.get("library", FIRST_LIBRARY)
    return found


def subject_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the checkpoint that a statement is about."""
    digest: str = document["subject"][0]["digest"]["sha256"]
    return digest


def config_of(document: Mapping[str, Any]) -> Any:
    """Return the configuration of the run that a statement describes."""
    return document["predicate"]["buildDefinition"]["externalParameters"]["config"]


def metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the name, start and end of the run that a statement describes."""
    found: dict[str, str] = document["predicate"]["runDetails"]["metadata"]
    return found


def runtime(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions and hardware of a run's last attempt, by name."""
    internal = document["predicate"]["buildDefinition"]["internalParameters"]
    found: dict[str, str] = internal["runtime"]
    return found


def facts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return everything a run depended on, by name; `differences` compares runs by these."""
    definition = document["predicate"]["buildDefinition"]
    internal = definition["internalParameters"]
    dependencies = {
        dependency["name"]: list(dependency["digest"].values())[0]  # noqa: RUF015 - none: IndexError
        for dependency in definition["resolvedDependencies"]
    }
    config = {"config": json.dumps(config_of(document), sort_keys=True)}
    determinism = {name: str(value) for name, value in internal["determinism"].items()}
    last = {**dependencies, **config, **internal["runtime"], **determinism}
    return {**last, **_differing_attempts(internal.get("earlierAttempts", []), last)}


def _differing_attempts(
    earlier: Iterable[Mapping[str, Any]], last: Mapping[str, str]
) -> dict[str, str]:
    """Return where the source or runtime of an earlier attempt differs from the last one's."""
    found = {}
    for document in earlier:
        attempt = Attempt.of(document)
        for name, value in {**attempt.source.digests, **attempt.runtime}.items():
            if value != last.get(name):
                found[f"{name} from step {attempt.first_step}"] = value or "none"
    return found


def is_dirty(document: Mapping[str, Any]) -> bool:
    """Return whether the source differed from its commit."""
    return bool(document["predicate"]["buildDefinition"]["internalParameters"]["dirty"])


def model_version(document: Mapping[str, Any]) -> str:
    """Return the model's version: 8 digits of the commit and 12 of the checkpoint's digest."""
    commit = facts(document).get("source", "nocommit")
    return f"{commit[:8]}-{subject_digest(document)[:12]}"


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference of two runs, such as `torch: 2.13.0 -> 2.15.0`."""
    before, after = facts(one), facts(other)
    names: Iterable[str] = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _diff_digest(root: Path) -> str | None:
    """Return the digest of all files that differ from the commit, including new ones, or None.

    It covers the files, not the output of `git diff`, which depends on the user's settings and can
    hide a difference (textconv).
    """
    options = ("--porcelain", "-z", "--untracked-files=all", "--no-renames")
    # No optional locks: git must not write to the repository's index here.
    command = ("--no-optional-locks", "status", *options, "--ignore-submodules=none")
    status = _git(root, *command)
    if status is None:
        msg = f"{root}: git cannot compare the source with its commit; git status says why"
        raise GateInputError(msg)
    names = sorted(entry[3:] for entry in status.split("\0") if entry)  # after "XY "
    if not names:
        return None
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{_contents(root / name)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _contents(file: Path) -> str:
    """Return the facts about a file that git tracks: its kind and the digest of its content."""
    if file.is_symlink():
        return f"link {file.readlink()}"
    if not file.is_file():
        return "no file"
    kind = "program" if file.stat().st_mode & stat.S_IXUSR else "file"
    return f"{kind} {sha256(file)}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return git's output in `folder`; None if git fails or is missing."""
    try:
        result = _run_git(folder, *arguments)
    except OSError:
        return None
    return result.stdout.decode(errors="surrogateescape") if result.returncode == 0 else None


def _run_git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(  # noqa: S603 - arguments of our own
        ["git", *arguments],  # noqa: S607 - the user's git, from PATH
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )


def _processor() -> str:
    """Return the processor's model name, which Linux provides only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())

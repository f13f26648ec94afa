"""The registry in MLflow, through its client: on a server or in a SQLite file.

A model's log is kept as a second registered model, NAME.history, with one entry per version.
MLflow numbers the versions of a model without gaps and never reuses a number, which is what the
log needs. The log is therefore always stored with the registry, under the same read permissions.
"""

import contextlib
import gc
import os
import random
import re
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from gates.errors import GateInputError, describe
from gates.progress import waiting_for
from gates.registry.history import Head, Stored, digest_of
from gates.registry.store import (
    DIGEST,
    ENTRY,
    HEAD,
    LOG_SUFFIX,
    RUN,
    Caller,
    Record,
    UnreachableError,
    Version,
    as_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_Result = TypeVar("_Result")

_PAGE = 1000
_ATTEMPTS = 6
_CURRENT_USER = "/api/2.0/mlflow/users/current"

# By default, MLflow sends telemetry, prints around our one-line errors and retries an address that
# does not answer for minutes.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class MlflowStore:
    """A registry in MLflow.

    Args:
        address: such as `sqlite:///registry/mlflow.db` or `https://mlflow.example.org`.
        make: whether to create a missing SQLite file; MLflow itself always would.

    Raises:
        GateInputError: MLflow is not installed, or the file is missing or not an MLflow registry.
    """

    def __init__(self, address: str, *, make: bool = False) -> None:
        self.address = re.sub(r"//.*@", "//", address)  # without credentials, for messages
        self._address = address
        self._artifacts: str | None = None
        self._is_server = address.startswith(("http://", "https://"))
        _, is_sqlite, path = address.partition("sqlite:///")
        if is_sqlite:
            file = Path(unquote(path.partition("?")[0])).absolute()
            if not file.is_file():
                if not make:
                    msg = f"{self.address}: there is no registry yet (no such file); register a "
                    msg += "model with python -m gates register, or set MLFLOW_TRACKING_URI"
                    raise GateInputError(msg)
                with waiting_for(f"creating the registry {self.address}"):
                    _make_tables(file, self.address)
            _check_is_registry(file, self.address)
            # By default, MLflow would use a folder in the current one. A URI, because MLflow
            # decodes escapes such as %20 in a plain path.
            self._artifacts = file.with_name("artifacts").as_uri()
        with waiting_for(f"opening the registry {self.address}"):
            self._client = _client(address, self.address)

    def caller(self) -> Caller | None:
        """Return the user that the server recognises; None for a file."""
        if not self._is_server:
            return None
        from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415 - already loaded
        from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

        def request() -> Any:
            host = get_default_host_creds(self._address)  # type: ignore[no-untyped-call]
            return http_request(host, _CURRENT_USER, "GET", raise_on_status=False)  # type: ignore[no-untyped-call]

        answer = self._do(request)
        try:
            time = parsedate_to_datetime(answer.headers["Date"])
            # A server without authentication does not have this endpoint.
            user = answer.json()["user"]["username"] if answer.ok else None
        except (KeyError, TypeError, ValueError) as error:
            msg = f"the registry {self.address}: did not report the user ({describe(error)})"
            raise GateInputError(msg) from error
        return Caller(user=user, time=time)

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first."""
        return [_version(each) for each in self._search(model)]

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Store `files` as a new version of `model`."""
        self._ensure(model)
        experiment = self._experiment(model)
        # A server accepts files only as artifacts of an MLflow run.
        name = facts.get("model_version", "")
        run = self._do(lambda: self._client.create_run(experiment, run_name=name))
        for each, file in files.items():
            self._upload(run.info.run_id, file, each)
        self._do(lambda: self._client.set_terminated(run.info.run_id))
        created = self._do(
            lambda: self._client.create_model_version(
                model,
                source=run.info.artifact_uri,
                run_id=run.info.run_id,
                tags={**as_tags(facts), RUN: run.info.run_id},
                description=name,
                await_creation_for=0,
            )
        )
        return _version(created)

    def remove(self, version: Version) -> None:
        """Delete a version that nobody has used."""
        self._do(lambda: self._client.delete_model_version(version.model, str(version.number)))

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Store another file with those of `version`."""
        self._upload(version.fact("run"), file, name)

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local, unchecked copy of one file of `version`."""
        from mlflow import artifacts  # noqa: PLC0415 - already loaded

        uri = f"{version.source.rstrip('/')}/{name}"
        try:
            with self._errors_translated(f"{version}: {name} cannot be read"):
                copy = artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(folder), tracking_uri=self._address
                )
        except GateInputError as error:
            if _is_absence(error.__cause__):
                raise
            raise UnreachableError(str(error)) from error
        return Path(copy)

    def record(self, model: str) -> Record:
        """Return the aliases and the noted head of `model`; empty if there is no such model."""
        try:
            found = self._do(lambda: self._client.get_registered_model(model))
        except _AbsentError:
            return Record(aliases={}, head=None)
        aliases = {alias: int(number) for alias, number in found.aliases.items()}
        return Record(aliases=aliases, head=Head.parse(found.tags.get(HEAD, "")))

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Point `alias` to another version, or delete it."""
        if number is None:
            self._do(lambda: self._client.delete_registered_model_alias(model, alias))
        else:
            self._do(lambda: self._client.set_registered_model_alias(model, alias, str(number)))

    def entries(self, model: str) -> list[Stored]:
        """Return the log, oldest entry first."""
        return [
            Stored(
                number=int(each.version),
                text=each.tags.get(ENTRY, ""),
                digest=each.tags.get(DIGEST, ""),
                received=self._received(each),
            )
            for each in self._search(model + LOG_SUFFIX)
        ]

    def _received(self, entry: "ModelVersion") -> datetime | None:
        if not self._is_server:
            return None
        return datetime.fromtimestamp(int(entry.creation_timestamp) / 1000, UTC)

    def append(self, version: Version, text: str, *, summary: str) -> None:
        """Add an entry to the log."""
        digest = digest_of(text)
        for attempt in range(_ATTEMPTS):
            try:
                self._add_entry(version, {ENTRY: text, DIGEST: digest}, summary)
            except _AbsentError:
                self._ensure(version.model + LOG_SUFFIX)  # the first entry of this model
            except _BusyError:
                # It may have been stored nonetheless; a second copy would be a void entry.
                if any(each.digest == digest for each in self.entries(version.model)):
                    return
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - not a secret
            else:
                return

    def _add_entry(self, version: Version, tags: Mapping[str, str], summary: str) -> None:
        self._do(
            lambda: self._client.create_model_version(
                version.model + LOG_SUFFIX,
                source=version.source,
                run_id=version.tags.get(RUN),
                tags=dict(tags),
                description=summary,
                await_creation_for=0,
            )
        )

    def note_head(self, model: str, head: Head) -> None:
        """Note the log's newest entry beside it."""
        self._do(lambda: self._client.set_registered_model_tag(model, HEAD, str(head)))

    def _ensure(self, model: str) -> None:
        with contextlib.suppress(_ExistsError):
            self._do(lambda: self._client.create_registered_model(model))

    def _experiment(self, model: str) -> str:
        name = f"registry/{model}"
        found = self._do(lambda: self._client.get_experiment_by_name(name))
        if found is not None:
            return str(found.experiment_id)
        with contextlib.suppress(_ExistsError):  # another process has just created it
            self._do(lambda: self._client.create_experiment(name, self._artifacts))
        return self._experiment(model)

    def _upload(self, run: str, file: Path, name: str) -> None:
        with contextlib.ExitStack() as stack:
            if file.name != name:
                # MLflow stores a file under its local name.
                folder = Path(stack.enter_context(TemporaryDirectory()))
                (folder / name).symlink_to(file.absolute())
                file = folder / name
            self._do(lambda: self._client.log_artifact(run, str(file)))

    def _search(self, model: str) -> "list[ModelVersion]":
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self._do(
                lambda token=token: self._client.search_model_versions(  # type: ignore[misc]
                    f"name = '{model}'",
                    max_results=_PAGE,
                    order_by=["version_number ASC"],
                    page_token=token,
                )
            )
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda each: int(each.version))

    def _do(self, call: Callable[[], _Result]) -> _Result:
        with self._errors_translated(""):
            return call()

    @contextlib.contextmanager
    def _errors_translated(self, what: str) -> Iterator[None]:
        """Turn any error of MLflow, its stores or their clients into a one-line GateInputError."""
        try:
            with _quiet():
                yield
        except Exception as error:  # they share no base class
            raise _translated(error, what, self.address) from error


class _BusyError(GateInputError):
    """Another process is writing, or the response was lost; a retry may succeed."""


class _AbsentError(GateInputError):
    """The registry does not have it."""


class _ExistsError(GateInputError):
    """The registry already has it."""


_KINDS: dict[str, type[GateInputError]] = {
    "RESOURCE_DOES_NOT_EXIST": _AbsentError,
    "RESOURCE_ALREADY_EXISTS": _ExistsError,
    "TEMPORARILY_UNAVAILABLE": _BusyError,
    "INTERNAL_ERROR": _BusyError,
    "BAD_REQUEST": _BusyError,
}
_REFUSED = {
    "401": "not logged in (401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "403": "not allowed (403); ask the registry's administrator for write permission",
}


def _is_absence(error: BaseException | None) -> bool:
    """Whether an MLflow error means that a file does not exist."""
    response = getattr(error, "response", None)
    code = getattr(response, "status_code", None) or str(getattr(error, "error_code", ""))
    text = str(error)
    return (
        isinstance(error, FileNotFoundError)
        or code in {404, "RESOURCE_DOES_NOT_EXIST"}
        or "No such file" in text
        or "No such artifact" in text
    )


def _translated(error: Exception, what: str, address: str) -> GateInputError:
    text = " ".join(str(error).split())
    message = re.sub(r"//[^\s/]*@", "//", describe(error))  # an address may contain a password
    code = str(getattr(error, "error_code", ""))
    refusal = re.search(r"error code (401|403)\b", text) or re.search(
        r"\b(401|403) Client Error", text
    )
    names = {"UNAUTHENTICATED": "401", "PERMISSION_DENIED": "403"}
    status = refusal[1] if refusal else names.get(code)
    start = f"{what} from the registry {address}" if what else f"the registry {address}"
    if status:
        return GateInputError(f"{start}: {_REFUSED[status]}")
    return _KINDS.get(code, GateInputError)(f"{start}: {message}")


def _version(found: "ModelVersion") -> Version:
    return Version(
        model=found.name, number=int(found.version), source=str(found.source), tags=dict(found.tags)
    )


def _client(address: str, shown: str) -> "MlflowClient":
    for name, setting in _SETTINGS.items():
        os.environ.setdefault(name, setting)
    # MLflow's modules create a million permanent objects. Scanning them now, and in every later
    # garbage collection, would take a third of a command's time.
    gc.disable()
    try:
        with _quiet():
            from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

            return MlflowClient(tracking_uri=address, registry_uri=address)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise _translated(error, "", shown) from error
        msg = f"{shown}: needs MLflow; install the extra: gates[mlflow]"
        raise GateInputError(msg) from error
    except Exception as error:  # not a database, an unknown URI scheme
        raise _translated(error, "", shown) from error
    finally:
        # Frozen objects live until the process exits; torch's bindings would report them as leaks.
        if "torch" not in sys.modules:
            gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings from MLflow's dependencies, which only MLflow's authors can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_is_registry(file: Path, shown: str) -> None:
    """Refuse a database of another program, since MLflow would create its tables in it."""
    try:
        address = f"file:{quote(str(file))}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            query = "SELECT 1 FROM sqlite_master WHERE name = 'registered_models'"
            is_registry = database.execute(query).fetchone() is not None
    except sqlite3.Error as error:
        msg = f"the registry {shown}: {describe(error)}"
        raise GateInputError(msg) from error
    if not is_registry:
        msg = f"{shown}: is not an MLflow registry; name a new file, and gates register creates it"
        raise GateInputError(msg)


def _make_tables(file: Path, shown: str) -> None:
    """Let MLflow create its tables in a temporary file, which then appears under its final name.

    MLflow creates them in many steps. If it is killed in between, or if two processes do it at the
    same time, it leaves a file that it can never open again.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
            made = Path(folder, "made.db")
            # A path relative to the current folder: given an absolute one with characters to
            # escape, MLflow would create a second folder with the escaped name.
            with contextlib.chdir(file.parent):
                _client(f"sqlite:///{made.relative_to(file.parent)}", shown)
            try:
                file.hardlink_to(made)
            except FileExistsError:
                pass  # another process was quicker; its file is as good
            except OSError:  # a file system without links
                if not file.exists():
                    made.rename(file)
    except OSError as error:
        msg = f"{file}: cannot be created ({error.strerror}); set MLFLOW_TRACKING_URI"
        raise GateInputError(msg) from error

"""The registry in MLflow, through its client: on a server or in a SQLite file.

A model's log is kept as a registered model of its own, NAME.history: MLflow numbers the versions
of a model without gaps and never the same twice, which is what the log needs, and each version
carries one entry. So the log is wherever the registry is, and whoever may read the one may read
the other.
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

from gates.errors import GateInputError, said_by
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

# MLflow calls a host of its own, writes where an error has its one line, and tries an address that
# does not answer for minutes, unless told not to.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class MlflowStore:
    """A registry of MLflow's.

    Args:
        address: such as `sqlite:///registry/mlflow.db` or `https://mlflow.example.org`.
        make: whether to make a SQLite file that is not there; MLflow would always.

    Raises:
        GateInputError: MLflow is not installed, or there is no such file, or it is not MLflow's.
    """

    def __init__(self, address: str, *, make: bool = False) -> None:
        self.address = re.sub(r"//.*@", "//", address)  # as it may be shown
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
                with waiting_for(f"making the registry {self.address}"):
                    _make_tables(file, self.address)
            _check_is_registry(file, self.address)
            # MLflow's own choice would be a folder wherever the command happens to run. As an
            # address: of a path it would decode what looks like one, such as %20.
            self._artifacts = file.with_name("artifacts").as_uri()
        with waiting_for(f"opening the registry {self.address}"):
            self._client = _client(address, self.address)

    def caller(self) -> Caller | None:
        """Return whom the server has recognised; None for a file, which knows nobody."""
        if not self._is_server:
            return None
        from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415 - loaded by now
        from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

        def ask() -> Any:
            host = get_default_host_creds(self._address)  # type: ignore[no-untyped-call]
            return http_request(host, _CURRENT_USER, "GET", raise_on_status=False)  # type: ignore[no-untyped-call]

        answer = self._do(ask)
        try:
            time = parsedate_to_datetime(answer.headers["Date"])
            # Without authentication there is no such page.
            user = answer.json()["user"]["username"] if answer.ok else None
        except (KeyError, TypeError, ValueError) as error:
            msg = f"the registry {self.address}: does not say who you are ({said_by(error)})"
            raise GateInputError(msg) from error
        return Caller(user=user, time=time)

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first."""
        return [_version(each) for each in self._search(model)]

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Keep `files` as a new version of `model`."""
        self._ensure(model)
        place = self._experiment(model)
        # A run of MLflow's holds the files: a server takes none for a version without one.
        name = facts.get("model_version", "")
        run = self._do(lambda: self._client.create_run(place, run_name=name))
        for each, file in files.items():
            self._upload(run.info.run_id, file, each)
        self._do(lambda: self._client.set_terminated(run.info.run_id))
        made = self._do(
            lambda: self._client.create_model_version(
                model,
                source=run.info.artifact_uri,
                run_id=run.info.run_id,
                tags={**as_tags(facts), RUN: run.info.run_id},
                description=name,
                await_creation_for=0,
            )
        )
        return _version(made)

    def remove(self, version: Version) -> None:
        """Take out a version that nobody has used."""
        self._do(lambda: self._client.delete_model_version(version.model, str(version.number)))

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Keep one more file beside those of `version`."""
        self._upload(version.fact("run"), file, name)

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local copy of one file of `version`, not checked."""
        from mlflow import artifacts  # noqa: PLC0415 - loaded by now

        uri = f"{version.source.rstrip('/')}/{name}"
        try:
            with self._told(f"{version}: {name} cannot be read"):
                copy = artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(folder), tracking_uri=self._address
                )
        except GateInputError as error:
            if _is_absence(error.__cause__):
                raise
            raise UnreachableError(str(error)) from error
        return Path(copy)

    def record(self, model: str) -> Record:
        """Return what is kept of `model` itself; nothing if there is no such model."""
        try:
            found = self._do(lambda: self._client.get_registered_model(model))
        except _AbsentError:
            return Record(aliases={}, head=None)
        aliases = {alias: int(number) for alias, number in found.aliases.items()}
        return Record(aliases=aliases, head=Head.parse(found.tags.get(HEAD, "")))

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Make `alias` name another version, or none."""
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
                # It may have arrived all the same: a second entry of the same text would be void.
                if any(each.digest == digest for each in self.entries(version.model)):
                    return
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - no secret
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
        with contextlib.suppress(_ExistsError):  # somebody else made it just now
            self._do(lambda: self._client.create_experiment(name, self._artifacts))
        return self._experiment(model)

    def _upload(self, run: str, file: Path, name: str) -> None:
        with contextlib.ExitStack() as stack:
            if file.name != name:
                # MLflow keeps a file under its own name.
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
        with self._told(""):
            return call()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell in one line what MLflow, its stores or their clients cannot do."""
        try:
            with _quiet():
                yield
        except Exception as error:  # each of them has errors of its own
            raise _translated(error, what, self.address) from error


class _BusyError(GateInputError):
    """Somebody else is writing, or the answer was lost; it may work a moment later."""


class _AbsentError(GateInputError):
    """There is no such thing in the registry."""


class _ExistsError(GateInputError):
    """It is in the registry already."""


_KINDS: dict[str, type[GateInputError]] = {
    "RESOURCE_DOES_NOT_EXIST": _AbsentError,
    "RESOURCE_ALREADY_EXISTS": _ExistsError,
    "TEMPORARILY_UNAVAILABLE": _BusyError,
    "INTERNAL_ERROR": _BusyError,
    "BAD_REQUEST": _BusyError,
}
_REFUSED = {
    "401": "not logged in (401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "403": "not allowed (403); ask who keeps the registry for the permission to change this model",
}


def _is_absence(error: BaseException | None) -> bool:
    """Whether an error of MLflow's says that a file is not there."""
    answer = getattr(error, "response", None)
    code = getattr(answer, "status_code", None) or str(getattr(error, "error_code", ""))
    said = str(error)
    return (
        isinstance(error, FileNotFoundError)
        or code in {404, "RESOURCE_DOES_NOT_EXIST"}
        or "No such file" in said
        or "No such artifact" in said
    )


def _translated(error: Exception, what: str, address: str) -> GateInputError:
    text = " ".join(str(error).split())
    told = re.sub(r"//[^\s/]*@", "//", said_by(error))  # an address may hold a password
    code = str(getattr(error, "error_code", ""))
    refusal = re.search(r"error code (401|403)\b", text) or re.search(
        r"\b(401|403) Client Error", text
    )
    names = {"UNAUTHENTICATED": "401", "PERMISSION_DENIED": "403"}
    status = refusal[1] if refusal else names.get(code)
    start = f"{what} from the registry {address}" if what else f"the registry {address}"
    if status:
        return GateInputError(f"{start}: {_REFUSED[status]}")
    return _KINDS.get(code, GateInputError)(f"{start}: {told}")


def _version(found: "ModelVersion") -> Version:
    return Version(
        model=found.name, number=int(found.version), source=str(found.source), tags=dict(found.tags)
    )


def _client(address: str, shown: str) -> "MlflowClient":
    for name, setting in _SETTINGS.items():
        os.environ.setdefault(name, setting)
    # MLflow's modules create a million objects that stay. Searching them for garbage, now and in
    # every later collection, would take a third of a command's time.
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
    except Exception as error:  # a file that is no database, an unknown kind of address
        raise _translated(error, "", shown) from error
    finally:
        # Frozen objects stay to the very end, which torch's bindings would report as leaks.
        if "torch" not in sys.modules:
            gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what MLflow's own dependencies warn its authors of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_is_registry(file: Path, shown: str) -> None:
    """Refuse a file of another program: MLflow would make its tables in there."""
    try:
        address = f"file:{quote(str(file))}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            named = "SELECT 1 FROM sqlite_master WHERE name = 'registered_models'"
            is_registry = database.execute(named).fetchone() is not None
    except sqlite3.Error as error:
        msg = f"the registry {shown}: {said_by(error)}"
        raise GateInputError(msg) from error
    if not is_registry:
        msg = (
            f"{shown}: is not a registry of MLflow's; name a new file, and gates register makes it"
        )
        raise GateInputError(msg)


def _make_tables(file: Path, shown: str) -> None:
    """Let MLflow make its tables in a file that then appears whole, under its own name.

    It makes them in many steps: killed between two, or beside another who does the same, it leaves
    a file that it never opens again.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
            made = Path(folder, "made.db")
            # Below the current folder: of its path MLflow would make one as it is written in an
            # address, beside the one that it means.
            with contextlib.chdir(file.parent):
                _client(f"sqlite:///{made.relative_to(file.parent)}", shown)
            try:
                file.hardlink_to(made)
            except FileExistsError:
                pass  # somebody else's, which is as good
            except OSError:  # a file system without links
                if not file.exists():
                    made.rename(file)
    except OSError as error:
        msg = f"{file}: cannot be made ({error.strerror}); set MLFLOW_TRACKING_URI"
        raise GateInputError(msg) from error

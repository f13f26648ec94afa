"""A registry on Weights & Biases: models and their logs as artifacts, stages as aliases.

https://docs.wandb.ai/guides/artifacts. A registered model is an artifact collection, whose versions
v0, v1 … are numbered 1, 2 … here. The log of a model is a second collection. Reading needs the
server: with WANDB_MODE=offline, models can only be registered, and become versions once `wandb
sync` has uploaded them.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gates.errors import GateInputError, describe
from gates.registry.history import Head, Stored, digest_of
from gates.registry.store import LOG_SUFFIX, Record, Version, as_tags

if TYPE_CHECKING:
    from wandb import Artifact

_MODEL, _LOG, _EVIDENCE = "model", "model-history", "model-evidence"
_ENTRY_FILE = "entry.json"
_DIGEST = "gates.entry.digest"
_ADDRESS = re.compile(r"wandb://(?P<entity>[\w.-]+)/(?P<project>[\w.-]+)")
_OFFLINE = ("offline", "dryrun")


class WandbStore:
    """A registry in a Weights & Biases project.

    Args:
        address: `wandb://ENTITY/PROJECT`.

    Raises:
        GateInputError: W&B is not installed, or the address is malformed.
    """

    def __init__(self, address: str) -> None:
        parts = _ADDRESS.fullmatch(address)
        if parts is None:
            msg = f"{address}: is not a registry address; expected wandb://ENTITY/PROJECT"
            raise GateInputError(msg)
        self.address = address
        self._entity, self._project = parts["entity"], parts["project"]
        # By default, W&B prints banners and sends error reports to its authors.
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb  # noqa: PLC0415 - optional dependency
        except ImportError as error:
            msg = f"{address}: needs Weights & Biases; install the extra: gates[wandb]"
            raise GateInputError(msg) from error
        self._wandb = wandb
        self._connected: Any = None

    @property
    def is_offline(self) -> bool:
        """Whether new versions are stored locally for `wandb sync` to upload."""
        return os.environ.get("WANDB_MODE", "").lower() in _OFFLINE

    def caller(self) -> None:
        """Return None: asking W&B for the user is not implemented, as it was never tested."""

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first.

        Offline, they are unknown. W&B compares contents, so a model registered twice still
        becomes one version when it is uploaded.
        """
        return [] if self.is_offline else [self._version(model, a) for a in self._all(model)]

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Store `files` as a new version of `model`.

        Raises:
            GateInputError: offline: the files are stored, but are not a version yet.
        """
        created = self._log(model, _MODEL, files, as_tags(facts))
        return self._version(model, created)

    def remove(self, version: Version) -> None:
        """Delete a version that nobody has used."""
        with self._errors_translated(f"{version} cannot be deleted"):
            self._artifact(version).delete(delete_aliases=True)  # it always has `latest`

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Store another file for `version` in a second collection; W&B versions are immutable."""
        about = {"gates.version": str(version.number)}
        self._log(f"{version.model}.evidence", _EVIDENCE, {name: file}, about)

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local, unchecked copy of one file of `version`."""
        with self._errors_translated(f"{version}: {name} cannot be read"):
            # Not from W&B's cache: the check must see the file that is on the server now.
            entry = self._artifact(version).get_entry(name)
            return Path(entry.download(root=str(folder), skip_cache=True))

    def record(self, model: str) -> Record:
        """Return the aliases and the noted head of `model`; empty if there is no such model."""
        aliases: dict[str, int] = {}
        for artifact in self._all(model):
            number = _number(artifact)
            names = set(artifact.aliases) - {"latest", artifact.version}
            aliases.update(dict.fromkeys(names, number))
        with self._errors_translated(f"the head of the log of {model} cannot be read"):
            kept = self._collection(model).description if self._exists(model, _MODEL) else ""
        return Record(aliases=aliases, head=Head.parse(kept or ""))

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Point `alias` to another version, or delete it."""
        with self._errors_translated(f"the alias {alias} cannot be moved"):
            for artifact in self._all(model):
                if number is None and alias in artifact.aliases:
                    artifact.aliases.remove(alias)
                    artifact.save()
                elif _number(artifact) == number and alias not in artifact.aliases:
                    # W&B removes it from the version that had it.
                    artifact.aliases.append(alias)
                    artifact.save()

    def entries(self, model: str) -> list[Stored]:
        """Return the log, oldest entry first."""
        found: list[Stored] = []
        with TemporaryDirectory() as folder:
            for artifact in self._all(model + LOG_SUFFIX, _LOG):
                with self._errors_translated(f"the log of {model} cannot be read"):
                    root = str(Path(folder, artifact.version))
                    entry = artifact.get_entry(_ENTRY_FILE)
                    text = Path(entry.download(root=root, skip_cache=True)).read_text("utf-8")
                digest = str(artifact.metadata.get(_DIGEST, ""))
                found.append(Stored(number=_number(artifact), text=text, digest=digest))
        return found

    def append(self, version: Version, text: str, *, summary: str) -> None:
        """Add an entry to the log. Sending the same text again adds no second version."""
        with TemporaryDirectory() as folder:
            file = Path(folder, _ENTRY_FILE)
            file.write_text(text, encoding="utf-8")
            about = {_DIGEST: digest_of(text), "gates.summary": summary}
            self._log(version.model + LOG_SUFFIX, _LOG, {_ENTRY_FILE: file}, about)

    def note_head(self, model: str, head: Head) -> None:
        """Note the log's newest entry beside it."""
        with self._errors_translated(f"the head of the log of {model} cannot be noted"):
            collection = self._collection(model)
            collection.description = str(head)
            collection.save()

    def _log(
        self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, str]
    ) -> "Artifact":
        """Upload `files` as a version of the collection `name`, completely or not at all."""
        with TemporaryDirectory() as scratch, self._errors_translated(f"{name} cannot be written"):
            artifact = self._wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for each, file in files.items():
                artifact.add_file(str(file), name=each)
            settings = self._wandb.Settings(
                console="off", disable_git=True, x_disable_meta=True, x_disable_stats=True
            )
            run = self._wandb.init(
                entity=self._entity,
                project=self._project,
                job_type="registry",
                dir=_offline_folder() if self.is_offline else scratch,
                settings=settings,
            )
            try:
                logged = run.log_artifact(artifact)
                kept = Path(run.dir).parent
                if not self.is_offline:
                    logged.wait()
            finally:
                run.finish()
                if self.is_offline:
                    self._wandb.teardown()  # waits for the process that writes the run's file
                else:
                    shutil.rmtree(kept, ignore_errors=True)
        if self.is_offline:
            if not any(file.stat().st_size for file in kept.glob("*.wandb")):
                msg = f"{name}: W&B has not written a run to {kept}; nothing is registered, try "
                msg += "again"
                raise GateInputError(msg)
            msg = f"{name}: offline, so it is not a version in {self.address} yet; upload it: "
            msg += f"wandb sync {kept}"
            raise GateInputError(msg)
        return logged

    def _all(self, model: str, kind: str = _MODEL) -> list[Any]:
        """Return every version of a collection, oldest first; none if there is no collection."""
        with self._errors_translated(f"the versions of {model} cannot be read"):
            if not self._exists(model, kind):
                return []
            return sorted(self._api.artifacts(kind, self._path(model)), key=_number)

    def _exists(self, model: str, kind: str) -> bool:
        return bool(self._api.artifact_collection_exists(self._path(model), kind))

    def _collection(self, model: str) -> Any:
        return self._api.artifact_collection(_MODEL, self._path(model))

    def _artifact(self, version: Version) -> Any:
        return self._api.artifact(f"{self._path(version.model)}:v{version.number - 1}", _MODEL)

    def _path(self, model: str) -> str:
        return f"{self._entity}/{self._project}/{model}"

    @property
    def _api(self) -> Any:
        if self.is_offline:
            msg = f"{self.address}: WANDB_MODE is offline; only gates register works offline"
            raise GateInputError(msg)
        if self._connected is None:
            self._connected = self._wandb.Api()
        return self._connected

    def _version(self, model: str, artifact: Any) -> Version:
        metadata = {str(name): str(value) for name, value in artifact.metadata.items()}
        source = f"{self.address}/{model}:{artifact.version}"
        return Version(model=model, number=_number(artifact), source=source, tags=metadata)

    @contextlib.contextmanager
    def _errors_translated(self, what: str) -> Iterator[None]:
        """Turn any error of W&B, its server or the network into a one-line GateInputError."""
        try:
            yield
        except GateInputError:
            raise
        except Exception as error:  # W&B, its core and their clients share no base class
            msg = f"the registry {self.address}: {what}: {describe(error)}"
            raise GateInputError(msg) from error


def _offline_folder() -> str:
    """Return the folder for offline runs; by default, W&B would reuse an earlier run's folder."""
    return str(Path(os.environ.get("WANDB_DIR") or ".").absolute())


def _number(artifact: Any) -> int:
    """Return the number of a version: v0 is the first."""
    return int(str(artifact.version).removeprefix("v")) + 1

"""Finds the data and code behind a model, and the models built from a commit or some data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.registry.store import Store

_SHORTEST = 7


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a model.

    Args:
        name: the run or the registered version.
        parts: digests by role: model, data, source (the commit), source-diff, uv.lock.
        dirty: whether its source differed from the commit.
    """

    name: str
    parts: Mapping[str, str]
    dirty: bool

    def __str__(self) -> str:
        text = ", ".join(f"{role} {digest}" for role, digest in self.parts.items())
        return f"{text}, from source that no commit describes" if self.dirty else text


def of_runs(outputs: Path) -> list[Origin]:
    """Return the origin of each run's model in `outputs` or one level below.

    Raises:
        GateInputError: a run's provenance does not match its checkpoint.
    """
    patterns = ("*/provenance.json", "*/*/provenance.json")
    runs = sorted(file.parent for pattern in patterns for file in outputs.glob(pattern))
    return [_origin(run) for run in runs]


def of_versions(store: Store, model: str) -> list[Origin]:
    """Return the origin of each version of `model` in a registry.

    Raises:
        GateInputError: a version was registered by other means.
    """
    return [
        Origin(
            name=f"{version} in {store.address}",
            parts={
                "model": version.fact("checkpoint"),
                "data": version.fact("data"),
                "source": version.fact("commit"),
            },
            dirty=version.fact("dirty") == "true",
        )
        for version in store.versions(model)
    ]


def trace(digest: str, origins: Iterable[Origin]) -> list[str]:
    """Return one line for each model whose origin includes `digest`.

    Args:
        digest: the digest of a checkpoint, a commit, data or the lock, or its beginning.
        origins: the origins of all known models.

    Raises:
        GateInputError: the digest is too short, or no origin includes it.
    """
    if len(digest) < _SHORTEST:
        msg = f"trace: {digest!r} is too short; give at least {_SHORTEST} digits"
        raise GateInputError(msg)
    lines: list[str] = []
    for origin in origins:
        parts = origin.parts.items()
        roles = [role for role, value in parts if value.startswith(digest.lower())]
        if roles:
            lines.append(f"{origin.name}: {digest} is its {' and '.join(roles)}: {origin}")
    if not lines:
        msg = f"trace: {digest} is not part of any run or registered version here; search where "
        msg += "the model was trained, or set MLFLOW_TRACKING_URI to the registry"
        raise GateInputError(msg)
    return lines


def _origin(run: Path) -> Origin:
    statement = provenance.read_of_run(run)
    facts = provenance.facts(statement)
    names = ("data", "source", "source-diff", "uv.lock")
    return Origin(
        name=run.name,
        parts={
            "model": provenance.subject_digest(statement),
            **{name: facts[name] for name in names if name in facts},
        },
        dirty=provenance.is_dirty(statement),
    )

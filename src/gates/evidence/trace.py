"""Which data and code made a model, and which models a commit or some data went into."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.registry.store import Store

_SHORTEST = 7


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a model.

    Args:
        name: of the run, or of the registered version.
        parts: digests, by what they are of: model, data, source (the commit), source-diff, uv.lock.
        dirty: whether its source was not what the commit says.
    """

    name: str
    parts: Mapping[str, str]
    dirty: bool

    def __str__(self) -> str:
        told = ", ".join(f"{what} {digest}" for what, digest in self.parts.items())
        return f"{told}, from a tree that its commit does not describe" if self.dirty else told


def of_runs(outputs: Path) -> list[Origin]:
    """Return what made the model of each run in `outputs`, or in a folder of it.

    Raises:
        GateInputError: a run's provenance is not about the checkpoint beside it.
    """
    patterns = ("*/provenance.json", "*/*/provenance.json")
    runs = sorted(file.parent for pattern in patterns for file in outputs.glob(pattern))
    return [_of_run(run) for run in runs]


def of_versions(store: Store, model: str) -> list[Origin]:
    """Return what made each version of `model` in a registry.

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
    """Return a line for each model that `digest`, or its beginning, has a part in.

    Args:
        digest: of a checkpoint, a commit, data or the lock.
        origins: the models that are known.

    Raises:
        GateInputError: it is too short, or no model has it.
    """
    if len(digest) < _SHORTEST:
        msg = f"trace: {digest!r} is too short; give at least {_SHORTEST} digits"
        raise GateInputError(msg)
    lines: list[str] = []
    for origin in origins:
        parts = origin.parts.items()
        roles = [what for what, value in parts if value.startswith(digest.lower())]
        if roles:
            lines.append(f"{origin.name}: {digest} is its {' and '.join(roles)}: {origin}")
    if not lines:
        msg = f"trace: {digest} has no part in any run or registered version here; look where it "
        msg += "was trained, or name the registry in MLFLOW_TRACKING_URI"
        raise GateInputError(msg)
    return lines


def _of_run(run: Path) -> Origin:
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

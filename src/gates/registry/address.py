"""The address of the registry in use, and the store that speaks to it."""

import os
from pathlib import Path

from gates.registry.store import Store

# Where models are registered if no server is named: a file in the current folder.
DEFAULT_FILE = "registry/mlflow.db"
DEFAULT_ADDRESS = f"sqlite:///{DEFAULT_FILE}"


def address_in_use() -> str:
    """Return the address of the registry.

    GATES_REGISTRY names it, or else MLflow's own variables do.
    """
    names = ("GATES_REGISTRY", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
    return next((os.environ[name] for name in names if os.environ.get(name)), DEFAULT_ADDRESS)


def is_there() -> bool:
    """Whether a registry is named, or the default one exists: else nothing was ever registered."""
    return address_in_use() != DEFAULT_ADDRESS or Path(DEFAULT_FILE).exists()


def open_store(*, make: bool = False) -> Store:
    """Return the registry in use.

    Args:
        make: whether to make one where none is named and none is there.

    Raises:
        GateInputError: there is none, or it cannot be reached.
    """
    address = address_in_use()
    if address.startswith("wandb:"):
        from gates.registry.wandb_store import WandbStore  # noqa: PLC0415 - an extra

        return WandbStore(address)
    from gates.registry.mlflow_store import MlflowStore  # noqa: PLC0415 - only the store in use

    return MlflowStore(address, make=make)

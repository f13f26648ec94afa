"""The address of the registry in use, and the store that connects to it."""

import os
from pathlib import Path

from gates.registry.store import Store

# Used when no server is configured: a file in the current folder.
DEFAULT_FILE = "registry/mlflow.db"
DEFAULT_ADDRESS = f"sqlite:///{DEFAULT_FILE}"


def address_in_use() -> str:
    """Return the address of the registry.

    GATES_REGISTRY takes precedence over MLflow's own variables.
    """
    names = ("GATES_REGISTRY", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
    return next((os.environ[name] for name in names if os.environ.get(name)), DEFAULT_ADDRESS)


def registry_exists() -> bool:
    """Whether a registry is configured or the default one exists.

    If neither is the case, nothing was ever registered.
    """
    return address_in_use() != DEFAULT_ADDRESS or Path(DEFAULT_FILE).exists()


def open_store(*, make: bool = False) -> Store:
    """Return the registry in use.

    Args:
        make: whether to create the default registry if none is configured and it does not exist.

    Raises:
        GateInputError: there is no registry, or it cannot be reached.
    """
    address = address_in_use()
    if address.startswith("wandb:"):
        from gates.registry.wandb_store import WandbStore  # noqa: PLC0415 - optional dependency

        return WandbStore(address)
    from gates.registry.mlflow_store import MlflowStore  # noqa: PLC0415 - only the store in use

    return MlflowStore(address, make=make)

"""Functions of a project that a policy names, such as `project.module:smoke`."""

import importlib
from typing import Any

from gates.errors import ConfigError

PATTERN = r"^[\w.]+:\w+$"


def named_function(reference: str, *, where: str) -> Any:
    """Return the function that `reference` names.

    Args:
        reference: `module:name`.
        where: the source that an error names.

    Raises:
        ConfigError: the function cannot be imported.
    """
    module, _, function = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # the project's own module may raise anything
        msg = f"{where}: {reference} cannot be imported ({type(error).__name__}: {error})"
        raise ConfigError(msg) from error

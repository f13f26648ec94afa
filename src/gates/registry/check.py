"""Whether a version can be used: its files are as registered, and its model answers."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gates.errors import ConfigError, GateError, GateInputError
from gates.evaluation.policy import PromotionPolicy
from gates.functions import named_function
from gates.progress import waiting_for
from gates.registry.history import History
from gates.registry.loading import check_as_recorded
from gates.registry.store import Store, UnreachableError, Version, fetch_checked

# Errors that concern the machine on which a model is tried, not the model.
_MACHINE_ERRORS = (ConfigError, GateInputError, ImportError, MemoryError, OSError)


def answer_check(rules: PromotionPolicy) -> Callable[[Path], Any]:
    """Return the project's function that checks that a model answers.

    Raises:
        ConfigError: the function cannot be imported here.
    """
    with waiting_for(f"loading {rules.smoke}"):
        function: Callable[[Path], Any] = named_function(rules.smoke, where="promotion.smoke")
    return function


def problem_of_files(store: Store, version: Version, log: History, folder: Path) -> str | None:
    """Copy every file of `version` to `folder`; return how they differ from what was registered.

    Raises:
        UnreachableError: a file could not be copied; the version itself may be intact.
    """
    problems = []
    try:
        check_as_recorded(version, log)
        names = list(version.files)
    except GateInputError as error:
        return str(error)
    for name in names:
        try:
            fetch_checked(store, version, [name], folder)
        except UnreachableError:
            raise
        except GateInputError as error:
            problems.append(str(error))
    return "; ".join(problems) or None


def problem_of(
    store: Store, version: Version, log: History, answers: Callable[[Path], Any]
) -> str | None:
    """Load a version from the registry and try its model; return what is wrong, if anything.

    Raises:
        GateInputError: it cannot be tried on this machine; the version itself may be fine.
    """
    with tempfile.TemporaryDirectory(prefix="gates-") as folder:
        problem = problem_of_files(store, version, log, Path(folder))
        return problem or problem_of_answers(answers, version, Path(folder))


def problem_of_answers(
    answers: Callable[[Path], Any], version: Version, folder: Path
) -> str | None:
    """Try the model whose files are in `folder`; return what is wrong, if anything.

    Raises:
        GateInputError: it cannot be tried on this machine; the version itself may be fine.
    """
    try:
        with waiting_for(f"trying {version}"):
            answers(folder)
    except _MACHINE_ERRORS as error:
        msg = f"{version}: cannot be tried on this machine: {_describe(error, folder)}; try again "
        msg += "on one that has its code and its held-out data"
        raise GateInputError(msg) from error
    except Exception as error:  # noqa: BLE001 - the project's own function may raise anything
        return _describe(error, folder)
    return None


def _describe(error: Exception, folder: Path) -> str:
    text = str(error).replace(f"{folder}/", "")
    return text if isinstance(error, GateError) else f"{type(error).__name__}: {text}"

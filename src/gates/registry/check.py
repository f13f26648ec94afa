"""Whether a version can be used: its files are what was registered, and the model answers."""

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

# What says something of the machine that tries a model, and nothing of the model.
_OF_THIS_MACHINE = (ConfigError, GateInputError, ImportError, MemoryError, OSError)


def answer_check(rules: PromotionPolicy) -> Callable[[Path], Any]:
    """Return the project's function that lets a model answer.

    Raises:
        ConfigError: it cannot be imported here.
    """
    with waiting_for(f"loading {rules.smoke}"):
        function: Callable[[Path], Any] = named_function(rules.smoke, where="promotion.smoke")
    return function


def problem_of_files(store: Store, version: Version, log: History, folder: Path) -> str | None:
    """Copy every file of `version` to `folder`; return what is not what was registered.

    Raises:
        UnreachableError: a file could not be copied here, which says nothing of the version.
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
    """Load a version from the registry and let it answer; return what is wrong with it.

    Raises:
        GateInputError: it cannot be tried on this machine, which says nothing of the version.
    """
    with tempfile.TemporaryDirectory(prefix="gates-") as folder:
        problem = problem_of_files(store, version, log, Path(folder))
        return problem or problem_of_answers(answers, version, Path(folder))


def problem_of_answers(
    answers: Callable[[Path], Any], version: Version, folder: Path
) -> str | None:
    """Let a model whose files are in `folder` answer; return what is wrong with it.

    Raises:
        GateInputError: it cannot be tried on this machine, which says nothing of the version.
    """
    try:
        with waiting_for(f"trying {version}"):
            answers(folder)
    except _OF_THIS_MACHINE as error:
        msg = f"{version}: cannot be tried on this machine: {_told(error, folder)}; try again "
        msg += "where its code and its held-out data are"
        raise GateInputError(msg) from error
    except Exception as error:  # noqa: BLE001 - the project's own function may raise anything
        return _told(error, folder)
    return None


def _told(error: Exception, folder: Path) -> str:
    told = str(error).replace(f"{folder}/", "")
    return told if isinstance(error, GateError) else f"{type(error).__name__}: {told}"

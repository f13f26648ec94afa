import os
import signal

import pytest

from tasks import git

# As a background job, pytest would ignore it, and so would what its tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before a test makes a repository: under `git rebase --exec` it would be the user's own.
git.forget_locations()

# pytest-xdist says which of several processes this is. They share the cores out: two with a
# thread for each core are slower than one after the other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# A test of one of these kinds has run, which a skipped one has not.
_SHOWN = {"passed", "xfailed", "xpassed"}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a run in which every test was skipped end as one without tests: it has shown nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker or reporter is None or session.config.option.collectonly:
        return
    if session.exitstatus == pytest.ExitCode.OK and not _SHOWN & reporter.stats.keys():
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here and not beside its test: pytest takes options only from a conftest.py of each path
    # that it is given, and of the folders above.
    parser.addoption(
        "--renew-golden",
        action="store_true",
        help="write the golden curve of this version of torch anew instead of comparing",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=200,
        metavar="N",
        help="how often the registry's user is killed at a random moment (default: 200)",
    )

import os
import signal

import pytest

from tasks import git

# A background job ignores SIGINT, and so do the processes that its tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Under `git rebase --exec`, GIT_DIR would send a test's git commands to the user's repository.
git.forget_locations()

# pytest-xdist workers share the cores: two workers with a thread per core each are slower than
# one after the other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The outcomes of a test that ran.
_RAN = {"passed", "xfailed", "xpassed"}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Exit as if no tests were collected when every test was skipped: nothing was checked."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker or reporter is None or session.config.option.collectonly:
        return
    if session.exitstatus == pytest.ExitCode.OK and not _RAN & reporter.stats.keys():
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_addoption(parser: pytest.Parser) -> None:
    # Not beside the tests that use them: pytest reads options only from the conftest.py of the
    # paths it is given and of their parent folders.
    parser.addoption(
        "--renew-golden",
        action="store_true",
        help="rewrite the golden curve for this version of torch instead of comparing",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=200,
        metavar="N",
        help="how many times to kill the registry's client at a random moment (default: 200)",
    )

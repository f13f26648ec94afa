"""Fixtures: a small real project, and a local package index that serves its packages."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.environments import lockfile, uv
from tests.local_index import Index
from tests.repository import commit

import noxfile  # noqa: F401 - first, so that any selection of tests sees the catalogue's order

MEMBER = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "own_project"
version = "0.1.0"
requires-python = ">=3.11"
"""
PYPROJECT = """\
[project]
name = "own-workspace"
version = "0.1.0"
requires-python = ">=3.11"

[dependency-groups]
build = ["tiny"]

[tool.uv]
required-version = ">=0.13.0"
package = false
default-groups = "all"

[tool.uv.workspace]
members = ["src/*"]

[[tool.uv.index]]
name = "placeholder"
url = "./no-such-index"
format = "flat"
explicit = true
"""

# The smallest build backend that supports editable installs (PEP 660).
BACKEND = """\
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "own_project-0.1.0-py3-none-any.whl"
    info = "own_project-0.1.0.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("own_project.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: own-project\\nVersion: 0.1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"own_project.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n")
    return name
"""  # noqa: E501


# One session for each way to end. `locked` uses the smallest environment in the real lock.
NOXFILE = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nox

from tasks.environments import environment
from tasks.sessions import repository
from tasks.catalogue import Part, session
from tasks.errors import abort
from tasks.project import ROOT

nox.options.default_venv_backend = "none"
SRC = {"timeout_minutes": 1, "tiers": ["pr"], "inputs": ["src"]}


def python(session, code, *arguments):
    environment.run(session, ROOT / "none", sys.executable, "-c", code, *arguments, ANSWER="42")


@session(**SRC)
def passes(session):
    'Pass.'
    python(session, "pass", str(ROOT / "src"), f"--home={Path.home()}/x")


@session(**SRC)
def fails(session):
    'Fail.'
    python(session, "raise SystemExit(7)")


@session(**SRC)
def skips(session):
    'Skip.'
    session.skip("nothing to do\\nhere")


@session(**SRC)
def errs(session):
    'Abort.'
    session.error(f"no verdict in {ROOT}/artifacts")


@session(**SRC)
def breaks(session):
    'Raise.'
    raise KeyError("a mistake")


@session(**SRC)
def stops(session):
    'Stop.'
    abort("uv.lock: nothing to judge")


@session(**SRC)
def run_python(session):
    'Run the given code; declares src as its input.'
    python(session, *session.posargs)


@session(**SRC)
def reads_in_nox(session):
    'Read a file in the Nox process.'
    (ROOT / session.posargs[0]).read_text()


@session(timeout_minutes=1, parts=[Part(name="a, b", inputs=("src",), tiers=("pr",))])
def parts(session):
    'Pass.'


@session(**SRC)
def locked(session):
    'Run in an environment installed from the lock.'
    build = environment.Environment(
        folder=".nox/locked", python=environment.default_python(), groups=("build",)
    )
    environment.run(session, environment.prepare(build), "python", "-c", "import hatchling")
"""


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that serves tiny 1.0; uv knows no other and starts with an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        index = Index(folder, f"http://127.0.0.1:{server.server_port}")
        index.publish("tiny", "1.0")
        for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        yield index
        server.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path, index: Index) -> Path:
    """A locked workspace with one package, which needs tiny; its path contains a space."""
    root = tmp_path / "own project"
    root.mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    member = root / "src" / "own_project"
    member.mkdir(parents=True)
    (member / "pyproject.toml").write_text(MEMBER)
    (member / "backend.py").write_text(BACKEND)
    assert index.url
    lockfile.renew(root, [])
    return root


@pytest.fixture
def sample_sessions(checkout: Path) -> Path:
    """A copy of this repository whose noxfile is NOXFILE."""
    (checkout / "noxfile.py").write_text(NOXFILE)
    commit(cwd=checkout)
    return checkout


@pytest.fixture(autouse=True)
def _inside_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep sessions that tests run in this repository from writing manifests in it."""
    monkeypatch.setenv("NOX_CURRENT_SESSION", "unit")


@pytest.fixture(autouse=True)
def _forget_uv() -> Iterator[None]:
    """Make each test look for uv again, as each `nox` run does."""
    uv.forget()
    yield
    uv.forget()

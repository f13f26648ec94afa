"""A small real project with a package index of its own, served on this machine."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import lockfile, uv
from tests.local_index import Index

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "own-project"
version = "0.1.0"
requires-python = ">=3.11"

[dependency-groups]
build = ["tiny"]

[tool.uv]
required-version = ">=0.13.0"
default-groups = "all"

[[tool.uv.index]]
name = "placeholder"
url = "./no-such-index"
format = "flat"
explicit = true
"""

# The smallest build backend that can make an editable install (PEP 660).
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


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that holds tiny 1.0, made the only one that uv knows, with an empty cache."""
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
    """A locked project that needs tiny; its folder's name has a space."""
    root = tmp_path / "own project"
    root.mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    assert index.url
    lockfile.renew(root, [])
    return root


@pytest.fixture(autouse=True)
def _forget_uv() -> Iterator[None]:
    """Let each test find uv anew, as each `nox` does."""
    uv.executable.cache_clear()
    yield
    uv.executable.cache_clear()

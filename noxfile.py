"""Every check of this project is a session, and CI runs the same sessions as your machine.

Run one by name, or a tier by its tag:

    nox -s smoke            one session
    nox -t pr               every session of a tier: pr or nightly
    nox -s smoke -- --pdb   passes the arguments after -- to the session's tool
    nox --usage smoke       the full description of a session
"""

import sys
from pathlib import Path

# The `nox` command does not add this folder to sys.path (`python -m nox` does).
sys.path.insert(0, str(Path(__file__).resolve().parent))

import nox

# The oldest Nox that the sessions were tested with; pyproject.toml sets the same for uv.
nox.needs_version = ">=2026.8.10"
nox.options.default_venv_backend = "none"
nox.options.tags = ["pr"]

from tasks import catalogue  # noqa: E402 - needs the path set above
from tasks.sessions import (  # noqa: E402
    gpu,
    image,
    model,
    promotion,
    protect,
    quality,
    release,
    repository,
    supply_chain,
    tests,
    workflows,
)

catalogue.check_asked(sys.argv[1:])

__all__ = [
    "gpu",
    "image",
    "model",
    "promotion",
    "protect",
    "quality",
    "release",
    "repository",
    "supply_chain",
    "tests",
    "workflows",
]

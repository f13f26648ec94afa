"""Every check of this project is a session: a laptop and CI run the same ones.

Run one by name, or a tier by its tag:

    nox -s smoke            one session
    nox -t pr               every session of a tier: pr or nightly
    nox -s smoke -- --pdb   arguments after -- go to the tool behind the session
    nox --usage smoke       what a session does, in full
"""

import sys
from pathlib import Path

# The `nox` command does not put this folder on the path (`python -m nox` does).
sys.path.insert(0, str(Path(__file__).resolve().parent))

import nox

# The oldest Nox with which the sessions were tested; pyproject.toml says the same of uv.
nox.needs_version = ">=2026.8.10"
nox.options.default_venv_backend = "none"
nox.options.tags = ["pr"]

from tasks import catalogue  # noqa: E402 - the path is set above
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

"""`nox -s protect` through the real gh, against the stand-in for GitHub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.project import ROOT
from tests.stand_in_github import GitHubAtSocket


@pytest.mark.skipif(shutil.which("gh") is None, reason="gh, GitHub's command line, is missing")
def test_the_real_gh_applies_the_rulesets_once(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(f"http_unix_socket: {tmp_path / 'socket'}\n")
    variables = {**os.environ, "GH_CONFIG_DIR": str(tmp_path), "GH_TOKEN": "any"}
    command = [sys.executable, "-m", "nox", "-s", "protect", "--", "--repo"]

    def protect(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    with GitHubAtSocket(tmp_path / "socket").serving() as github:
        assert protect("team/project").returncode == 1
        assert github.writes == []
        assert protect("team/project", "--apply").returncode == 0
        github.rulesets[100]["enforcement"] = "disabled"
        assert protect("team/project", "--apply").returncode == 0
        assert protect("team/project", "--apply").returncode == 0
        elsewhere = protect("team/other")
    assert github.writes == [
        "POST /repos/team/project/rulesets",
        "POST /repos/team/project/rulesets",
        "PUT /repos/team/project/rulesets/100",
    ]
    assert elsewhere.returncode == 2
    assert "HTTP 404" in elsewhere.stderr.splitlines()[-1]

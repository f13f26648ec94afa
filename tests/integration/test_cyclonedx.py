"""The SBOM of a cell matches the packages that cyclonedx-bom finds in this environment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gates.__main__ import main
from tasks.environments import environment
from tasks.project import ROOT, WORKSPACE, Cell, members, project_table


def keys(document: dict[str, Any]) -> dict[str, str]:
    return {
        each["bom-ref"]: f"{each['name']}=={each['version']}" for each in document["components"]
    }


def edges(document: dict[str, Any]) -> set[tuple[str, str]]:
    named = keys(document)
    return {
        (named[each["ref"]], named[ref])
        for each in document["dependencies"]
        for ref in each.get("dependsOn", [])
        if each["ref"] in named and ref in named
    }


def installed(file: Path) -> dict[str, Any]:
    """Return the tool's document on installed packages, without those of the workspace."""
    own = {project_table(folder)["name"].replace("_", "-") for folder in members(ROOT)}
    command = ["-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--output-file"]
    subprocess.run(
        [sys.executable, *command, str(file), sys.executable], check=True, capture_output=True
    )
    document: dict[str, Any] = json.loads(file.read_text())
    document["components"] = [
        {**each, "name": each["name"].lower().replace("_", "-").replace(".", "-")}
        for each in document["components"]
        if each["name"].replace("_", "-") not in own
    ]
    return document


def test_sbom_of_a_cell_matches_the_installed_packages(tmp_path: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    cell = Cell(python, WORKSPACE.default.torch)
    exported, ours = tmp_path / "requirements.txt", tmp_path / "ours.json"
    exported.write_text(environment.exported(environment.of_cell(cell)))
    folder = ROOT / "configs"
    where = [
        "--project",
        "mine",
        "--lock",
        ROOT / "uv.lock",
        "--licences",
        folder / "licences.json",
    ]
    where += ["--settings", folder / "audit.yaml", "--output", ours, "--requirements", exported]
    assert main(["sbom", "--cell", f"{python}-{cell.torch}", *map(str, where)]) == 0
    mine, theirs = json.loads(ours.read_text()), installed(tmp_path / "theirs.json")
    assert set(keys(mine).values()) == set(keys(theirs).values())
    # The tool also counts dependencies of extras that were not requested.
    assert edges(mine) <= edges(theirs)
    assert len(edges(mine)) > 100

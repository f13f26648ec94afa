"""Checks of the repository as a whole."""

import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tasks import catalogue
from tasks.hooks import imports
from tasks.packaging import changelog
from tasks.project import ROOT, WORKSPACE, is_project, members, project_table
from tests import repository

import noxfile  # noqa: F401 - declares every session


def quick_start_commands() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Quick start")[1].split("\n## ")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split("#")[0].strip() for line in block[1].splitlines()]


def test_ci_runs_exactly_the_commands_in_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set "))]
    first, _, offline = quick_start_commands()
    assert commands == [first, offline]


def test_quick_start_is_two_commands_and_an_offline_variant() -> None:
    every_check = "uvx nox -t pr"
    first = "pip install uv && uvx nox -s smoke"
    assert quick_start_commands() == [first, every_check, f'{every_check} -k "not audit"']


def test_the_readme_shows_the_catalogue() -> None:
    assert catalogue.markdown_table() in text_of("README.md")


def test_the_changelog_can_be_released() -> None:
    text = text_of("CHANGELOG.md")
    done = changelog.release(text, "99.0.0", "2026-11-24", "")
    assert changelog.has_unreleased_text(text) == bool(changelog.section(done, "99.0.0"))


def test_only_the_audit_is_left_out_offline() -> None:
    def listed(*words: str) -> set[str]:
        command = [sys.executable, "-m", "nox", "--list", "--json", "-t", "pr", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        return {each["session"] for each in json.loads(done.stdout)}

    assert listed() - listed("-k", "not audit") == {"audit"}


@pytest.mark.parametrize("host", [("pypi", "org"), ("files", "pythonhosted", "org")], ids=".".join)
def test_no_committed_file_names_a_package_index(host: tuple[str, ...]) -> None:
    found = repository.git("grep", "--fixed-strings", "--files-with-matches", ".".join(host))
    assert (found.returncode, found.stdout) == (1, ""), "expected no match and exit code 1"


def test_quality_thresholds_are_not_lowered() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["strict"] is True
    assert tools["coverage"]["run"]["branch"] is True
    assert tools["coverage"]["report"]["fail_under"] >= 90


def test_every_package_has_import_contracts_and_tests() -> None:
    packages = {file.parent.name for file in (ROOT / "src").glob("*/__init__.py")}
    linter = configparser.ConfigParser()
    linter.read_string(imports.contracts())
    assert {*linter["importlinter"]["root_packages"].split()} == {*packages, "tasks"}
    first, *libraries = linter["importlinter:contract:layers"]["layers"].strip().splitlines()
    assert first.split(" | ") == sorted(each.package for each in WORKSPACE.projects)
    assert libraries == ["training", "gates"]
    assert all((ROOT / "tests" / "unit" / name).is_dir() for name in packages)
    assert all((ROOT / "tests/smoke" / each.package).is_dir() for each in WORKSPACE.projects)


def test_no_tests_are_outside_the_folder_of_a_package() -> None:
    """Otherwise a package's session, or a change to it, would also run other packages' tests."""
    for kind, suites in (("unit", {"tasks", "repository"}), ("smoke", set())):
        inside = [
            name.split("/") for name in repository.files() if name.startswith(f"tests/{kind}/")
        ]
        folders = {parts[2] for parts in inside if len(parts) > 3}
        assert folders - suites <= {*WORKSPACE.packages}
        assert not [*(ROOT / "tests" / kind).glob("test_*.py")]


def test_every_test_named_in_security_exists() -> None:
    named = set(re.findall(r"`(?:[\w/]*/)?(test_\w+)(?:\.py)?`", text_of("SECURITY.md")))
    found = repository.git("grep", "--only-matching", "-h", "-E", r"def test_\w+").stdout
    functions = {line.removeprefix("def ") for line in found.splitlines()}
    files = {Path(name).stem for name in repository.files()}
    assert len(named) > 5
    assert named <= functions | files


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_package_carries_the_licence_and_the_version_of_the_workspace() -> None:
    version = project_table(ROOT)["version"]
    for folder in members(ROOT):
        assert (folder / "LICENSE").read_text() == text_of("LICENSE")
        assert project_table(folder)["version"] == version


def test_libraries_sessions_and_workflows_name_no_project() -> None:
    names = [folder.name for folder in members(ROOT) if is_project(folder)]
    assert names
    pattern = "|".join(name.replace("_", ".") for name in names)
    searched = (
        "src/gates",
        "src/training",
        "tasks",
        "noxfile.py",
        ".github",
        "Dockerfile",
        "docker",
        "tests/unit",
        "tests/smoke",
        *(f":!tests/unit/{name}" for name in names),
        *(f":!tests/smoke/{name}" for name in names),
    )
    found = repository.git("grep", "-ilE", pattern, "--", *searched)
    assert (found.returncode, found.stdout) == (1, ""), "expected no match and exit code 1"

"""Finds imports that violate the layering of the packages.

python3 -m tasks.hooks.hook python -m tasks.hooks.imports

A project may import the libraries in src/, but no other project. The sessions run all packages as
commands and import none. The list of packages is read from src/, so new ones are covered and
deleted ones cause no error.
"""

import configparser
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.project import ROOT, is_project, members, needed_members


def contracts(root: Path = ROOT) -> str:
    """Return the settings of import-linter for the packages of the workspace."""
    packages = [folder.name for folder in members(root)]
    projects = [folder.name for folder in members(root) if is_project(folder)]
    libraries = sorted(
        {*packages} - {*projects}, key=lambda name: len(needed_members(name, root)), reverse=True
    )
    settings = configparser.ConfigParser(interpolation=None)
    settings["importlinter"] = {
        "root_packages": _lines([*packages, "tasks"]),
        "include_external_packages": "True",
    }
    settings["importlinter:contract:layers"] = {
        "name": "projects build on training, training on gates, and no project on another",
        "type": "layers",
        # The bar means that the projects must not import each other.
        "layers": _lines([" | ".join(projects), *libraries]),
    }
    for package in packages:
        settings[f"importlinter:contract:{package}"] = {
            "name": f"tasks and {package} do not import each other",
            "type": "independence",
            "modules": _lines(["tasks", package]),
        }
    text = io.StringIO()
    settings.write(text)
    return text.getvalue()


def _lines(values: list[str]) -> str:
    return "\n" + "\n".join(values)


def main(root: Path = ROOT) -> int:
    """Check every package; import-linter prints its findings. Return its exit code."""
    linter = Path(sys.executable).with_name("lint-imports")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "importlinter.ini"
        file.write_text(contracts(root), encoding="utf-8")
        command = [str(linter), "--no-cache", f"--config={file}"]
        return subprocess.run(command, cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

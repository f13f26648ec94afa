"""The modules besides torch that a GPU image needs to train the default project."""

import ast
import subprocess
import sys
from pathlib import Path

from tasks.project import ROOT, WORKSPACE
from tasks.sessions import gpu

PROJECT = WORKSPACE.default_project.package
OWN = ("gates", PROJECT, "training")


def test_image_modules_are_exactly_those_that_training_imports() -> None:
    code = f"""if True:
        import sys
        from {PROJECT} import gpu_bench, project, train
        from training.pytorch import processes, loop
        from training import runs
        own = [module for module in sys.modules.values()
               if module.__name__.split(".")[0] in {OWN}]
        print(*[module.__file__ for module in own], sep="\\n")
    """
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    imported = {
        module
        for file in listed.stdout.splitlines()
        for statement in ast.parse(Path(file).read_text(encoding="utf-8")).body
        for module in modules_of(statement)
        if module.split(".")[0] not in {*OWN, "torch", *sys.stdlib_module_names}
    }
    assert {module.split(".")[0] for module in imported} - {"pydantic_core"} == {
        module.split(".")[0] for module in gpu.IMAGE_MODULES
    }


def modules_of(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []

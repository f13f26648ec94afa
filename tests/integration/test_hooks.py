import os
import re
import subprocess
import sys
from pathlib import Path

from tasks.environments import environment
from tasks.project import WORKSPACE
from tests import repository

HOOKS = (
    "ruff-check",
    "ruff-format",
    "typos",
    "wording",
    "import-contracts",
    "dependencies",
    "lock",
    "tracked-files",
    "secrets",
    "merge-conflicts",
    "case-conflicts",
    "scripts",
    "pins",
)
PROJECT = WORKSPACE.default_project.package
IMPORT = f"from {PROJECT} import config"
MISSPELLED = "reci" + "eve"  # split, or this file would fail the typo check
STUMBLE = "for " + "want of"  # split, as above
# In the formats of real providers, and split as above. None of them is a real credential.
SECRETS = {
    "docs/key.pem": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n",
    "docs/aws.py": 'KEY = "AKIA' + 'QYLPMN5HHHFPZAM2"\n',
    "docs/url.md": "https://anna:" + "Zk3vQ9rT2xW8@example.com/\n",
    "docs/token.md": "https://x:ghp_" + "0a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R@github.com/\n",
}


def test_hooks_and_lint_session_pass_a_clean_tree_and_find_each_defect(
    tmp_path: Path,
) -> None:
    checkout = repository.copy(tmp_path / "a checkout")
    # One test for everything, because creating the tools environment takes longer than using it.
    install_hooks(checkout)
    check_clean_tree(checkout)
    repository.git("clean", "--force", cwd=checkout)
    check_each_defect(checkout)


def check_clean_tree(checkout: Path) -> None:
    plant(checkout, {"src/gates/fine.py": '"""Fine."""\n'})
    refused = repository.git("commit", "--message", "fine", cwd=checkout)
    committed = repository.git("commit", "--message", "feat: fine", cwd=checkout)
    (checkout / "untracked.py").write_text("")
    shadow = checkout.parent / "shadow"
    shadow.mkdir()
    (shadow / "pre_commit.py").write_text("raise SystemExit('the user PYTHONPATH leaked in')")
    linted = lint(checkout, PYTHONPATH=str(shadow))
    assert refused.returncode != 0
    assert failed_hooks(refused.stdout + refused.stderr) == {"commit-message"}
    assert committed.returncode == 0, committed.stderr
    assert linted.returncode == 0, linted.stdout
    assert "Not checked, because git does not track them: untracked.py" in linted.stdout


def check_each_defect(checkout: Path) -> None:
    pyproject = (checkout / "pyproject.toml").read_text()
    plant(
        checkout,
        {
            "src/gates/unused.py": '"""Unused."""\n\nlambda_ = lambda: 0\nx: int=1\n',
            "src/gates/wrong_way.py": f'"""Wrong way."""\n\n{IMPORT}\n\n__all__ = ["config"]\n',
            "src/gates/undeclared.py": '"""Undeclared."""\n\nimport torch\n\n__all__ = ["torch"]\n',
            "tasks/wrong_way.py": '"""Wrong way."""\n\nfrom gates import errors\n\n'
            '__all__ = ["errors"]\n',
            "docs/spelling.md": f"{MISSPELLED}\n",
            "docs/wording.md": f"{STUMBLE}\n",
            "weights.pt": "not even a model",
            **SECRETS,
            "docs/conflict.md": f"{'<' * 7} HEAD\none\n{'=' * 7}\ntwo\n{'>' * 7} other\n",
            "docs/case.md": "",
            "docs/Case.md": "",
            "docs/script.sh": "#!/bin/sh\n",
            "configs/hub.yaml": "model:\n  repo_id: org/model\n  revision: main\n",
            "pyproject.toml": pyproject.replace('"mypy>=2.3"', '"mypy>=2.3", "flask"'),
        },
    )

    committed = repository.git("commit", "--message", "defects", cwd=checkout)
    # Ruff fixed the files that it could, so restore the planted defects.
    repository.git("checkout", "--", ".", cwd=checkout)
    # SKIP lets a commit bypass a hook; the session must ignore it.
    linted = lint(checkout, SKIP="tracked-files")

    assert committed.returncode != 0
    assert linted.returncode != 0
    failed_in_hook = failed_hooks(committed.stdout + committed.stderr)
    assert failed_in_hook == failed_hooks(linted.stdout)
    assert failed_in_hook == set(HOOKS)
    assert f"gates.wrong_way -> {PROJECT}" in linted.stdout
    assert "src/gates/undeclared.py:3:8: DEP001 'torch' imported" in linted.stdout
    assert all(f"Location:    {name}:1" in linted.stdout for name in SECRETS)
    assert "tasks.wrong_way -> gates" in linted.stdout


def plant(checkout: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(text)
    repository.git("add", "--all", cwd=checkout)


def install_hooks(checkout: Path) -> None:
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    subprocess.run(
        [tools / "bin" / "pre-commit", "install"], cwd=checkout, check=True, capture_output=True
    )


def lint(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", "-s", "lint"],
        cwd=checkout,
        env={**os.environ, "NO_COLOR": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def failed_hooks(output: str) -> set[str]:
    return set(re.findall(r"^- hook id: (\S+)$", output, re.MULTILINE))

"""The check that every path that decides about changes has a code owner."""

from pathlib import Path

import pytest

from tasks.github import code_owners
from tasks.project import ROOT

OWNED = "\n".join(f"{path} @team/owners # why" for path in code_owners.JUDGES)


def unowned(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / code_owners.FILE
    file.parent.mkdir()
    file.write_text(text)
    return code_owners.unowned(tmp_path)


def test_the_template_lists_every_path_without_an_owner() -> None:
    found = code_owners.unowned(ROOT)
    assert len(found) == len(code_owners.JUDGES)
    for path, line in zip(code_owners.JUDGES, found, strict=True):
        assert line.startswith(".github/CODEOWNERS:")
        assert line.endswith(f"{path} has no owner; add one after the path: {path} @OWNER/TEAM")
        assert (ROOT / path.lstrip("/")).exists()


def test_nothing_is_reported_if_every_path_has_an_owner(tmp_path: Path) -> None:
    assert unowned(tmp_path, f"* @team/all\n\n{OWNED}\n") == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("/tasks/ @team/owners", "/tasks/", "9: /tasks/ has no owner; add one after the path:"),
        ("/tasks/ @team/owners # why\n", "", "1: /tasks/ is missing; add it with its owner:"),
        (
            "/uv.lock @team/owners # why",
            "/uv.lock @team/owners\n/tasks/hooks/hook.py",
            "11: /tasks/hooks/hook.py may override the owner of files in /tasks/; remove this line",
        ),
    ],
)
def test_a_path_without_an_owner_is_reported(
    old: str, new: str, found: str, tmp_path: Path
) -> None:
    assert old in OWNED
    (line,) = unowned(tmp_path, OWNED.replace(old, new))
    assert line.startswith(f".github/CODEOWNERS:{found}")


def test_a_later_line_for_every_file_overrides_all_owners(tmp_path: Path) -> None:
    assert len(unowned(tmp_path, f"{OWNED}\n* @team/all\n")) == len(code_owners.JUDGES)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    (line,) = code_owners.unowned(tmp_path)
    assert line.startswith(".github/CODEOWNERS: cannot be read (")

"""Who must approve a change in what judges a change."""

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


def test_the_template_names_each_path_and_no_owner() -> None:
    found = code_owners.unowned(ROOT)
    assert len(found) == len(code_owners.JUDGES)
    for path, line in zip(code_owners.JUDGES, found, strict=True):
        assert line.startswith(".github/CODEOWNERS:")
        assert line.endswith(f"{path} has no owner; write one behind it: {path} @OWNER/TEAM")
        assert (ROOT / path.lstrip("/")).exists()


def test_with_an_owner_for_each_path_nothing_is_reported(tmp_path: Path) -> None:
    assert unowned(tmp_path, f"* @team/all\n\n{OWNED}\n") == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("/tasks/ @team/owners", "/tasks/", "9: /tasks/ has no owner; write one behind it:"),
        ("/tasks/ @team/owners # why\n", "", "1: /tasks/ is missing; add it with its owner:"),
        (
            "/uv.lock @team/owners # why",
            "/uv.lock @team/owners\n/tasks/hooks/hook.py",
            "11: /tasks/hooks/hook.py may take files of /tasks/ from its owner; leave it out",
        ),
    ],
)
def test_a_path_without_an_owner_is_a_line(old: str, new: str, found: str, tmp_path: Path) -> None:
    assert old in OWNED
    (line,) = unowned(tmp_path, OWNED.replace(old, new))
    assert line.startswith(f".github/CODEOWNERS:{found}")


def test_a_later_line_for_everything_takes_all_from_their_owners(tmp_path: Path) -> None:
    assert len(unowned(tmp_path, f"{OWNED}\n* @team/all\n")) == len(code_owners.JUDGES)


def test_no_file_is_a_line(tmp_path: Path) -> None:
    (line,) = code_owners.unowned(tmp_path)
    assert line.startswith(".github/CODEOWNERS: cannot be read (")

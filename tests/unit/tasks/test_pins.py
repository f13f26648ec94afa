import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from tasks.github import pins

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOT_FIXED = "is not a fixed commit"


def problems(folder: Path, name: str, text: str) -> list[str]:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return [problem.removeprefix(f"{file}:") for problem in pins.problems(file)]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("seed: 0\nrevision: main\n", 2, "revision 'main' is not", id="branch"),
        pytest.param("a:\n  - revision: v1.0\n", 2, "'v1.0' is not", id="tag_in_a_list"),
        pytest.param(f"revision: {COMMIT[:12]}\n", 1, NOT_FIXED, id="short"),
        pytest.param(f"revision: {COMMIT.upper()}\n", 1, NOT_FIXED, id="capitals"),
        pytest.param("revision:\n", 1, f"None {NOT_FIXED}", id="nothing"),
        pytest.param(f"revision: {'1' * 40}\n", 1, NOT_FIXED, id="a_number_not_a_string"),
        pytest.param("{repo_id: a/b}\n", 1, "repo_id without revision", id="no_revision"),
        pytest.param(
            f"repo_id: a/b\nteacher_repo_id: c/d\nrevision: {COMMIT}\n",
            2,
            "teacher_repo_id without teacher_revision",
            id="the_revision_of_another",
        ),
        pytest.param("data:\n  source: hf://datasets/a/b/x.parquet\n", 2, NOT_FIXED, id="address"),
        pytest.param("- hf://a/b@main/x\n", 1, NOT_FIXED, id="address_of_a_branch"),
        pytest.param(f"- hf://a/b@{COMMIT}0/x\n", 1, NOT_FIXED, id="41_digits"),
        pytest.param("a: [\n", 1, "is not valid YAML", id="invalid_yaml"),
    ],
)
def test_an_unpinned_reference_in_a_configuration_is_reported(
    text: str, line: int, message: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, "run.yaml", text)
    assert problem.startswith(f"{line}: ")
    assert message in problem


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"repo_id: a/b\nrevision: {COMMIT}\n", id="commit"),
        pytest.param(f"repo_id: a/b\nrevision: '{'1' * 40}'\n", id="digits_only"),
        pytest.param(f"source: hf://datasets/a/b@{COMMIT}/x.parquet\n", id="address"),
        pytest.param("source: digits\n", id="nothing_from_outside"),
        pytest.param("# revision: main\n", id="comment"),
        pytest.param("", id="empty"),
    ],
)
def test_a_pinned_configuration_has_no_problem(text: str, tmp_path: Path) -> None:
    assert problems(tmp_path, "run.yaml", text) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('[submodule "a"]\n\tpath = a\n\tbranch = main\n', 3, id="own_line"),
        pytest.param('[submodule "a"] branch = main\n', 1, id="line_of_the_section"),
        pytest.param('[submodule "a"]\n\tBranch=.\n', 2, id="capital"),
    ],
)
def test_a_submodule_branch_is_reported(text: str, line: int, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, ".gitmodules", text)
    assert problem.startswith(f"{line}: follows the branch")


def test_a_submodule_without_a_branch_has_no_problem(tmp_path: Path) -> None:
    text = '[submodule "branch = main"]\n\tpath = branch\n\turl = branch\n# branch = main\n'
    assert problems(tmp_path, ".gitmodules", text) == []


Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class _Pinned(BaseModel):
    repo_id: str
    revision: Revision


class _Free(BaseModel):
    repo_id: str
    revision: str


class _Missing(BaseModel):
    repo_id: str


class _Optional(BaseModel):
    repo_id: str
    revision: Revision = Field(default=COMMIT)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        pytest.param(_Pinned, 0, id="pinned"),
        pytest.param(_Free, 1, id="any_string"),
        pytest.param(_Missing, 1, id="no_revision"),
        pytest.param(_Optional, 1, id="a_default"),
    ],
)
def test_a_field_that_names_a_model_needs_a_commit_field(
    model: type[BaseModel], count: int, tmp_path: Path
) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": model.model_json_schema()}}
    assert len(problems(tmp_path, "config.schema.json", json.dumps(schema))) == count


def test_the_command_prints_one_line_per_problem_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("seed: 0\n")
    bad.write_text("revision: main\n")
    assert pins.main([str(good)]) == 0
    assert pins.main([str(good), str(bad)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{bad}:1: revision 'main' is not a fixed commit; write the full 40-digit commit"
    ]

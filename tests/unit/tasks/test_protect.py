"""The ruleset files, and the session that compares them with a stand-in for GitHub."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import nox
import pytest

from tasks import catalogue
from tasks.catalogue import CATALOGUE
from tasks.environments import environment
from tasks.github import code_owners, rulesets, workflow_source
from tasks.project import ROOT
from tasks.sessions import protect
from tests import nox_session, stand_in_github
from tests.nox_session import FailedError, SkippedError
from tests.stand_in_github import GitHub

runpy.run_path(str(ROOT / "noxfile.py"))  # declares every session

WORKFLOW = """\
name: pr
on:
  pull_request:
  merge_group:
jobs:
  plan:
    name: plan  # what runs
    runs-on: ubuntu-latest
    steps:
      - name: not a job
        run: nox -s plan -- pr
  session:
    name: ${{ matrix.session }}
  last:
    if: always()
    name: "green"
    needs: [plan]
"""
MAIN = ".github/rulesets/main.json"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this one's rulesets and a workflow that provides their check."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / rulesets.FOLDER, root / rulesets.FOLDER)
    shutil.copy(ROOT / code_owners.FILE, root / code_owners.FILE)
    (root / rulesets.WORKFLOWS).mkdir()
    (root / rulesets.WORKFLOWS / "pr.yml").write_text(WORKFLOW)
    monkeypatch.setattr(protect, "ROOT", root)
    monkeypatch.chdir(root)
    monkeypatch.setattr(environment, "prepare", lambda _: Path(sys.prefix))
    return root


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """The stand-in, and a gh on PATH that is logged in to it."""
    stand_in_github.install_gh(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("GH_TOKEN", "any")
    monkeypatch.delenv("CI", raising=False)
    with GitHub().serving() as server:
        monkeypatch.setenv("STAND_IN", str(server.server_port))
        yield server


class Session(nox_session.Session):
    """Checks the rulesets in this process."""

    def run(self, *command: str, **_: object) -> None:
        assert command[1:] == ("-m", "tasks.github.rulesets")
        if rulesets.main(Path.cwd()):
            self.error("the rulesets")


def run(*arguments: str) -> list[str]:
    """Run the session as Nox does; return what it logged."""
    session = Session(*arguments)
    protect.protect(cast("nox.Session", session))
    return session.logged


def edit(root: Path, old: str, new: str, file: str = MAIN) -> None:
    text = (root / file).read_text()
    assert text.count(old) == 1
    (root / file).write_text(text.replace(old, new))


def findings(root: Path) -> list[str]:
    return [str(each) for each in rulesets.findings(root)]


def body(root: Path, name: str = "main") -> dict[str, Any]:
    read: dict[str, Any] = json.loads((root / rulesets.FOLDER / f"{name}.json").read_text())
    return read


def test_rulesets_pass_with_a_workflow_that_has_their_check(root: Path) -> None:
    assert findings(root) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_project_may_choose_the_number_of_approvals(count: int, root: Path) -> None:
    text = (root / MAIN).read_text()
    key = '"required_approving_review_count"'
    (root / MAIN).write_text(re.sub(rf"{key}: \d+", f"{key}: {count}", text))
    assert findings(root) == []


def test_main_and_release_tags_are_protected_as_agreed() -> None:
    main, tags = body(ROOT), body(ROOT, "tags")
    rules = {rule["type"]: rule.get("parameters", {}) for rule in main["rules"]}
    assert {"deletion", "non_fast_forward", "required_linear_history"} <= rules.keys()
    # Each project sets the number of approvals: a sole maintainer needs 0 (docs/protection.md).
    assert rules["pull_request"]["dismiss_stale_reviews_on_push"] is True
    # 15368 is GitHub Actions: no other app may report that a pull request is green.
    required = [{"context": "green", "integration_id": 15368}]
    assert rules["required_status_checks"]["required_status_checks"] == required
    assert {rule["type"] for rule in tags["rules"]} == {
        "deletion",
        "non_fast_forward",
        "required_signatures",
    }
    assert tags["conditions"]["ref_name"]["include"] == ["refs/tags/v*"]
    for ruleset in (main, tags):
        assert ruleset["enforcement"] == "active"
        assert ruleset["bypass_actors"] == []
    # The last pusher cannot approve, and the files that judge changes have owners.
    assert rules["pull_request"]["require_last_push_approval"] is True
    assert rules["pull_request"]["require_code_owner_review"] is True
    assert rules["merge_queue"]["grouping_strategy"] == "ALLGREEN"
    # Only actors that bypass the rule can create a tag; 5 is the administrator role.
    new = body(ROOT, "new-tags")
    assert new["rules"] == [{"type": "creation"}]
    assert new["conditions"] == tags["conditions"]
    assert [(each["actor_id"], each["actor_type"]) for each in new["bypass_actors"]] == [
        (5, "RepositoryRole")
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        pytest.param(
            '"target"', '"targets"', 3, "targets: extra inputs are not permitted", id="key"
        ),
        pytest.param(
            '"dismiss_stale_reviews_on_push"',
            '"dismiss_stale"',
            17,
            "dismiss_stale: extra inputs",
            id="parameter",
        ),
        pytest.param('"include"', '"includes"', 7, "includes: extra inputs", id="condition"),
        pytest.param('"integration_id"', '"app"', 29, "checks.0.app: extra inputs", id="check"),
        pytest.param(
            '"deletion"',
            '"deletions"',
            10,
            "'deletions' found using 'type' does not match",
            id="rule",
        ),
        pytest.param('"deletion"', "[]", 10, "rules.0: input tag '[]'", id="no_type"),
        pytest.param(
            '{ "type": "deletion" }',
            "7",
            10,
            "rules.0: input should be a valid dict",
            id="rule_not_an_object",
        ),
        pytest.param(
            '"active"', '"on"', 4, "enforcement: input should be 'active', got 'on'", id="value"
        ),
        pytest.param('"deletion"', '"non_fast_forward"', 11, "a second rule of", id="rule_twice"),
        pytest.param(
            '"green"', '"gren"', 29, "the check 'gren', which no job reports", id="no_job"
        ),
        pytest.param(
            '"green"', "3", 29, ".context: input should be a valid string, got 3", id="not_a_string"
        ),
        pytest.param(
            '"green"',
            "[]",
            29,
            ".context: input should be a valid string, got []",
            id="not_hashable",
        ),
        pytest.param(
            '"green"', '"${{ matrix.session }}"', 29, "which no job reports", id="expression"
        ),
        pytest.param(
            "15368", '"15368"', 29, "should be a valid integer, got '15368'", id="app_as_a_string"
        ),
        pytest.param(
            '"required_approving_review_count":',
            '"required_approving_review_count": "one", "more":',
            16,
            "count: input should be a valid integer, got 'one'",
            id="number",
        ),
        pytest.param(
            '"require_code_owner_review": true',
            '"require_code_owner_review": 1',
            18,
            "should be a valid boolean, got 1",
            id="switch",
        ),
        pytest.param(
            '["squash", "rebase"]', "[]", 21, "methods: list should have at least 1", id="methods"
        ),
        pytest.param(
            '"name": "main"', '"name": []', 2, "name: input should be a valid string", id="name"
        ),
        pytest.param('"name": "main"', '"name": ""', 2, "name: string should match", id="no_name"),
        pytest.param('"active"', '"evaluate"', 4, "should be 'active'", id="evaluate"),
        pytest.param('"active"', '"disabled"', 4, "should be 'active'", id="disabled"),
        pytest.param(
            '"active",', '"active",\n"enforcement": "\\u001b",', 5, "duplicate key", id="duplicate"
        ),
        pytest.param(
            '"name": "main"', '"name": "\x7f"', 1, "cannot be read", id="delete_character"
        ),
        pytest.param(
            '["~DEFAULT_BRANCH"]', "[]", 7, "include: list should have at least 1", id="no_branch"
        ),
        pytest.param(
            '["~DEFAULT_BRANCH"]',
            "[1]",
            7,
            "include.0: input should be a valid string",
            id="no_pattern",
        ),
        pytest.param(
            '"bypass_actors": []',
            '"bypass_actors": {}',
            5,
            "bypass_actors: input should be a valid list",
            id="actors",
        ),
        pytest.param(
            '"target"', '"\\u001b\\n"', 3, r"\x1b\n: extra inputs", id="control_character"
        ),
        pytest.param('"branch"', "9" * 5000, 1, "cannot be read: Exceeds", id="huge_number"),
        pytest.param('"branch"', "[" * 100_000, 1, "cannot be read: ", id="deeply_nested"),
        pytest.param('"branch",', '"branch"', 4, "is not JSON: Expecting ','", id="not_json"),
        pytest.param('"name": "main"', '"name": "release tags"', 2, "already", id="name_twice"),
    ],
)
def test_each_defect_is_a_finding_with_its_line(
    old: str, new: str, line: int, message: str, root: Path
) -> None:
    edit(root, old, new)
    found = findings(root)
    assert all(map(str.isprintable, found))
    if message == "already":  # reported for the later of the two files
        text = f"the name 'release tags' is already used by {MAIN}"
        assert found[0] == f".github/rulesets/tags.json:{line}: {text}"
        return
    assert any(each.startswith(f"{MAIN}:{line}: ") and message in each for each in found), found


@pytest.mark.parametrize("rules", ["[]", "{}", "null", '"deletion"'])
def test_a_ruleset_without_rules_is_a_finding(rules: str, root: Path) -> None:
    head, _, _ = (root / MAIN).read_text().partition('"rules": ')
    (root / MAIN).write_text(f'{head}\n{" " * 4}"rules": {rules}\n}}')
    (found,) = findings(root)
    assert found.startswith(f"{MAIN}:10: rules: ")
    assert " list" in found


@pytest.mark.parametrize("checks", ["[]", '"green"', "null"])
def test_a_rule_that_requires_no_check_is_a_finding(checks: str, root: Path) -> None:
    edit(root, '[{ "context": "green", "integration_id": 15368 }]', checks)
    (found,) = findings(root)
    assert found.startswith(f"{MAIN}:29: rules.4.parameters.required_status_checks: ")


@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        pytest.param("refs/heads/release/*", "refs/heads/wip", id="not_included"),
        pytest.param("~DEFAULT_BRANCH", "~DEFAULT_BRANCH", id="excluded"),
        pytest.param("~ALL", "refs/heads/main", id="excluded_by_name"),
        pytest.param("~ALL", "refs/heads/**/*", id="excluded_by_pattern"),
    ],
)
def test_green_must_be_required_on_the_default_branch(
    include: str, exclude: str, root: Path
) -> None:
    edit(root, '"~DEFAULT_BRANCH"', f'"{include}"')
    edit(root, '"exclude": []', f'"exclude": ["{exclude}"]')
    (found,) = findings(root)
    assert found == (
        f"{MAIN}:7: the check 'green' is not required on the default branch: no ruleset that "
        "requires it includes ~DEFAULT_BRANCH without excluding that branch"
    )


def test_all_branches_include_the_default_branch_unless_it_is_excluded(root: Path) -> None:
    edit(root, '"~DEFAULT_BRANCH"', '"~ALL"')
    edit(root, '"exclude": []', '"exclude": ["refs/heads/wip/**/*"]')
    assert findings(root) == []


def test_some_branch_ruleset_must_require_green(root: Path) -> None:
    edit(root, '"green"', '"plan"')
    missing = ".github/rulesets:1: no branch ruleset requires the check 'green', so "
    (found,) = findings(root)
    assert found.startswith(missing)
    edit(root, '"plan"', '"green"')
    edit(root, '"target": "branch"', '"target": "tag"')
    (found,) = findings(root)
    assert found.startswith(missing)


def test_setting_left_to_githubs_default_is_a_finding(root: Path) -> None:
    edit(root, '"require_last_push_approval": true,', "")
    assert findings(root) == [
        f"{MAIN}:15: rules.3.parameters.require_last_push_approval: field required"
    ]


@pytest.mark.parametrize("text", ["[]", "3", '"main"', "null"])
def test_file_that_is_not_a_ruleset_is_a_finding(text: str, root: Path) -> None:
    (root / MAIN).write_text(text)
    assert findings(root) == [f"{MAIN}:1: is not a ruleset; expected one JSON object"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"name": "\xff"}', id="not_utf_8"),
        pytest.param(b'{"name": "a\0"}', id="null_character"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_finding(content: bytes, root: Path) -> None:
    (root / MAIN).write_bytes(content)
    (found,) = findings(root)
    assert found.startswith(f"{MAIN}:1: ")


def test_tabs_are_accepted_as_indentation(root: Path) -> None:
    (root / MAIN).write_text((root / MAIN).read_text().replace("  ", "\t"))
    assert findings(root) == []


def test_folder_without_rulesets_is_a_finding(tmp_path: Path) -> None:
    (found,) = findings(tmp_path)
    assert found == ".github/rulesets:1: contains no ruleset, so nothing is protected"


def test_check_that_never_runs_on_pull_requests_does_not_count(root: Path) -> None:
    file = ".github/workflows/pr.yml"
    edit(root, "  pull_request:\n", "  schedule:\n", file)
    (found,) = findings(root)
    assert found.startswith(f"{MAIN}:29: requires the check 'green'")
    assert "reported checks: none" in found


@pytest.mark.parametrize(
    ("workflow", "names"),
    [
        pytest.param(WORKFLOW, ["plan", "green"], id="as_usual"),
        pytest.param("on: [push, pull_request]\njobs: {green: {x: 1}}\n", ["green"], id="key"),
        pytest.param(
            "on: pull_request\njobs:\n  a:\n    steps:\n      - name: green\n", ["a"], id="step"
        ),
        pytest.param(
            "on: pull_request\njobs:\n  'a':\n    name: 'b c' # d\n", ["b c"], id="quoted"
        ),
        pytest.param("on: push\njobs:\n  green:\n    x: 1\n", [], id="not_on_pull_requests"),
        pytest.param("on: pull_request\nname: green\n", [], id="no_jobs"),
    ],
)
def test_check_is_named_after_its_job_or_else_the_jobs_key(
    workflow: str, names: list[str], root: Path
) -> None:
    assert rulesets.checks_of_pull_requests(source(root, workflow)) == names


def source(root: Path, text: str) -> workflow_source.Source:
    file = root / rulesets.WORKFLOWS / "pr.yml"
    file.write_text(text)
    known = workflow_source.Catalogue()
    read = workflow_source.read(file, root, known)
    assert isinstance(read, workflow_source.Source)
    return read


@pytest.mark.parametrize("text", ["jobs: [", "on: !!bool x", "on: " + "[" * 500 + "]" * 500])
def test_a_workflow_that_is_not_yaml_is_a_finding(text: str, root: Path) -> None:
    (root / rulesets.WORKFLOWS / "other.yml").write_text(text)
    (found,) = findings(root)
    assert found.startswith(".github/workflows/other.yml:1: is not valid YAML")


@pytest.mark.parametrize("on", ["3", "[[pull_request]]", "null"])
def test_workflow_without_a_trigger_provides_no_check(on: str, root: Path) -> None:
    (root / rulesets.WORKFLOWS / "pr.yml").write_text(f"on: {on}\njobs:\n  green:\n    x: 1\n")
    (found,) = findings(root)
    assert "reported checks: none" in found


def test_workflow_with_a_tab_is_a_finding(root: Path) -> None:
    edit(root, "jobs:\n", "jobs:\n\ta: b\n", ".github/workflows/pr.yml")
    (found,) = findings(root)
    assert found.startswith(".github/workflows/pr.yml:6: is not valid YAML")


@pytest.mark.usefixtures("root")
def test_without_apply_nothing_is_written_and_a_difference_fails(
    github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedError, match="team/project does not match the files"):
        run()
    assert github.writes == []
    assert capsys.readouterr().out.splitlines() == [
        *code_owners.unowned(ROOT),
        f"{MAIN}: is not on GitHub",
        ".github/rulesets/new-tags.json: is not on GitHub",
        ".github/rulesets/tags.json: is not on GitHub",
    ]


@pytest.mark.usefixtures("root")
def test_a_second_apply_changes_nothing(github: GitHub) -> None:
    assert run("--apply") == ["team/project matches the files"]
    assert github.writes == ["POST /repos/team/project/rulesets"] * 3
    before = json.dumps(github.rulesets)

    assert run("--apply") == ["team/project matches the files"]
    assert run() == ["team/project matches the files"]

    assert len(github.writes) == 3
    assert json.dumps(github.rulesets) == before


def test_existing_ruleset_is_updated_not_created_again(
    root: Path, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tags", "new-tags"):
        github.add(body(root, name))
    number = github.add(body(root))
    live = github.rulesets[number]
    actor = '{"actor_id": 5, "actor_type": "RepositoryRole", "bypass_mode": "always"}'
    live["enforcement"] = "disabled"
    live["bypass_actors"] = [json.loads(actor)]
    live["rules"] = [rule for rule in live["rules"] if rule["type"] != "deletion"]
    live["rules"].append({"type": "creation"})
    (parameters,) = (rule["parameters"] for rule in live["rules"] if rule["type"] == "pull_request")
    count = parameters["required_approving_review_count"]
    parameters["required_approving_review_count"] = count + 1

    assert run("--apply") == ["team/project matches the files"]

    assert github.writes == [f"PUT /repos/team/project/rulesets/{number}"]
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(str(code_owners.FILE))] == [
        f"{MAIN}: bypass_actors: live [{actor}], file []",
        f"{MAIN}: creation: live true, file has none",
        f"{MAIN}: deletion: live has none, file true",
        f'{MAIN}: enforcement: live "disabled", file "active"',
        (f"{MAIN}: pull_request.required_approving_review_count: live {count + 1}, file {count}"),
        f"{MAIN}: updated",
    ]


def test_ruleset_without_a_file_is_reported_and_left_alone(
    root: Path, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    number = github.add({**body(root), "name": "by hand"})
    before = json.dumps(github.rulesets[number])
    run("--apply")
    assert json.dumps(github.rulesets[number]) == before
    assert capsys.readouterr().out.count("the ruleset 'by hand' has no file here") == 2


def test_apply_fails_if_github_does_not_store_every_setting(
    github: GitHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = github.put

    def lenient(number: int, body: dict[str, Any]) -> None:
        put(number, {**body, "enforcement": "evaluate"})

    monkeypatch.setattr(github, "put", lenient)
    assert root.exists()
    with pytest.raises(FailedError, match="does not match the files"):
        run("--apply")


@pytest.mark.usefixtures("root")
def test_findings_prevent_writes_to_github(root: Path, github: GitHub) -> None:
    edit(root, '"green"', '"gren"')
    with pytest.raises(FailedError):
        run("--apply")
    assert github.writes == []


@pytest.mark.usefixtures("root", "github")
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        pytest.param(
            "GH_TOKEN", None, "gh is not logged in: run gh auth login", id="not_logged_in"
        ),
        pytest.param("PATH", "", "gh, GitHub's command line, is not installed", id="no_gh"),
    ],
)
def test_session_skips_without_gh_but_fails_in_ci(
    variable: str,
    value: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(SkippedError, match=message):
        run()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"protect: {message}")


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("root", "github")
def test_unknown_repository_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "--repo", "team/other")
    assert line.startswith("protect: gh api GET repos/team/other/rulesets")
    assert line.endswith("gh: Not Found (HTTP 404)")


def test_duplicate_rulesets_on_github_are_left_for_the_user_to_resolve(
    root: Path, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    github.add(body(root))
    github.add(body(root))
    line = error_line(capsys, "--apply")
    assert line == "protect: team/project has 2 rulesets named 'main'; delete all but one"
    assert github.writes == []


def test_hidden_bypass_actors_are_an_error(
    root: Path, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    github.add(body(root))
    github.shows_bypass = False
    assert "does not show who may bypass 'main'" in error_line(capsys)


@pytest.mark.usefixtures("root", "github")
@pytest.mark.parametrize("arguments", [("--all",), ("--repo",), ("main",)])
def test_unknown_option_is_reported_in_one_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_line(capsys, *arguments).startswith("protect: ")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "name", ["", "project", "team/", "/project", "team/project/x", "team/..", "a b/c", "t/p?x=1"]
)
def test_invalid_repository_name_is_reported_in_one_line(
    name: str, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, "--apply", "--repo", name)
    assert line.startswith(f"protect: --repo {name!r}: expected OWNER/NAME; ")
    assert github.writes == []


@pytest.mark.usefixtures("root", "github")
def test_another_repository_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailedError, match="team/project does not match the files"):
        run("--repo", "team/project")
    assert "main.json: is not on GitHub" in capsys.readouterr().out


def test_rulesets_workflows_and_catalogue_of_this_repository_agree() -> None:
    assert findings(ROOT) == []
    workflow = (ROOT / rulesets.WORKFLOWS / "pr.yml").read_text(encoding="utf-8")
    known = workflow_source.Catalogue()
    parsed = workflow_source.read(ROOT / rulesets.WORKFLOWS / "pr.yml", ROOT, known)
    assert isinstance(parsed, workflow_source.Source)
    # The required check is the last job and needs every other one. The plan feeds those jobs, so
    # the required check covers every session that is added to the tier.
    assert rulesets.checks_of_pull_requests(parsed)[-1] == "green"
    keys = re.findall(r"^  ([\w-]+):$", workflow.split("\njobs:\n")[1], re.MULTILINE)
    assert f"    needs: [{', '.join(keys[:-1])}]\n" in workflow.split(f"\n  {keys[-1]}:\n")[1]
    called = re.findall(r"nox -s ([\w-]+)(?: -- (\w+))?", workflow)
    assert ("plan", "pr") in called
    assert ("green", "") in called
    assert {name for name, _ in called} <= CATALOGUE.keys()
    assert catalogue.plan("pr")

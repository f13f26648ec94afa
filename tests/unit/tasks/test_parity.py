import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.affected import estimate
from tasks.catalogue import PlannedJob
from tasks.evidence import manifest, parity
from tasks.evidence.manifest import Manifest, UsedEnvironment
from tests.repository import git, nox


def make_run(session: str = "lint", **differences: Any) -> Manifest:
    installed = UsedEnvironment(
        python="3.12.1", requirements="aa", packages={"ruff": "0.17.6", "typos": "1.50"}
    )
    run = Manifest(
        session=session,
        tiers=["pr"],
        result="passed",
        seconds=1.5,
        tools={"nox": "2026.10.20", "uv": "0.13.9"},
        environments={".nox/tools": installed},
        commands=["nox -s lint", ".nox/tools/bin/typos ."],
        variables={},
        inputs={"README.md": "11", "src/a.py": "22"},
    )
    return replace(run, **differences)


def with_tools(**differences: Any) -> dict[str, Any]:
    installed = make_run().environments[".nox/tools"]
    return {"environments": {".nox/tools": replace(installed, **differences)}}


def compared(tmp_path: Path, yours: list[Manifest], ci: list[Manifest]) -> list[str]:
    for folder, runs in (("local", yours), ("ci/a job", ci)):
        for run in runs:
            manifest.write(run, tmp_path / folder)
    return parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")]).differences


def test_duration_is_not_compared(tmp_path: Path) -> None:
    assert compared(tmp_path, [make_run()], [make_run(seconds=99.0)]) == []


@pytest.mark.parametrize(
    ("ci_differences", "difference"),
    [
        pytest.param(
            with_tools(packages={"ruff": "0.17.5", "typos": "1.50"}, requirements="bb"),
            "CI ran ruff 0.17.5, you have 0.17.6",
            id="package",
        ),
        pytest.param(
            with_tools(packages={"ruff": "0.17.6"}),
            "CI has no typos, you have 1.50",
            id="missing_package",
        ),
        pytest.param(
            with_tools(requirements="bb"),
            ".nox/tools has the same versions with different hashes; compare uv.lock",
            id="hashes",
        ),
        pytest.param(
            with_tools(python="3.12.9"), "CI ran Python 3.12.9, you have 3.12.1", id="python"
        ),
        pytest.param(
            {"environments": {}},
            "you used the environment .nox/tools, CI did not",
            id="environment",
        ),
        pytest.param(
            {"tools": {"nox": "2026.8.10", "uv": "0.13.9"}},
            "CI ran nox 2026.8.10, you have 2026.10.20",
            id="nox",
        ),
        pytest.param(
            {"result": "failed", "reason": "a command failed"},
            "CI failed (a command failed), you passed",
            id="result",
        ),
        pytest.param(
            {"commands": ["nox -s lint"]},
            "CI ran nothing, you ran `.nox/tools/bin/typos .`",
            id="command",
        ),
        pytest.param(
            {"variables": {"TZ": "UTC"}}, "CI had TZ='UTC', you have no TZ", id="variable"
        ),
        pytest.param(
            {"inputs": {"README.md": "11", "src/a.py": "33"}},
            "src/a.py differs",
            id="input",
        ),
        pytest.param({"inputs": {"README.md": "11"}}, "only you have src/a.py", id="more_inputs"),
        pytest.param(
            {"inputs": None},
            "CI's inputs are unknown, because that run was not in a git repository",
            id="unknown_inputs",
        ),
        pytest.param(
            {"platform": "darwin-arm64"}, "CI ran on darwin-arm64, you on ", id="platform"
        ),
    ],
)
def test_each_difference_is_named(
    ci_differences: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    (line,) = compared(tmp_path, [make_run()], [replace(make_run(), **ci_differences)])
    assert line.startswith(f"lint: {difference}")


def test_other_files_of_a_job_are_not_read_as_manifests(tmp_path: Path) -> None:
    manifest.write(make_run(), tmp_path / "local")
    manifest.write(make_run(), tmp_path / "ci" / "lint" / "manifests")
    (tmp_path / "ci" / "lint" / "verdicts.json").write_text("{}")
    folders = [str(tmp_path / name) for name in ("local", "ci")]
    assert parity.of_folders(folders).differences == []


def test_difference_shared_by_several_sessions_is_one_line(tmp_path: Path) -> None:
    yours, ci = ([make_run(name, tools={"uv": uv}) for name in ("lint", "unit")] for uv in "12")
    assert compared(tmp_path, yours, ci) == ["lint, unit: CI ran uv 2, you have 1"]


def test_python_of_nox_counts_only_for_sessions_that_run_in_it(tmp_path: Path) -> None:
    assert compared(tmp_path, [make_run()], [make_run(interpreter="3.13.0")]) == []
    yours, ci = (
        make_run("plan", environments={}, interpreter=each) for each in ("3.11.7", "3.13.0")
    )
    assert compared(tmp_path, [yours], [ci]) == ["plan: CI ran Python 3.13.0, you have 3.11.7"]


def test_session_that_only_one_side_ran_is_named_if_it_has_a_tier(tmp_path: Path) -> None:
    yours = [make_run(), make_run("dev", tiers=[]), make_run("unit")]
    assert compared(tmp_path, yours, [make_run(), make_run("matrix(a-b)")]) == [
        "matrix(a-b): CI ran it, but you have no manifest of it",
        "unit: you ran it, but CI has no manifest of it",
    ]


def test_skipped_run_is_compared_only_by_its_result(tmp_path: Path) -> None:
    skipped = make_run(result="skipped", reason="no GPU", commands=["nox -s lint"], environments={})
    assert compared(tmp_path, [skipped], [make_run()]) == ["lint: CI passed, you skipped (no GPU)"]


def missing_folder(ci: Path) -> str:
    return f"{ci}: no such folder; nox leaves manifests in artifacts/manifests"


def empty_folder(ci: Path) -> str:
    ci.mkdir()
    return f"{ci}: contains no manifest"


def truncated_manifest(ci: Path) -> str:
    file = manifest.write(make_run(), ci)
    file.write_text(file.read_text()[:-20])
    return f"{file}: not a valid manifest (JSONDecodeError: "


def changed_manifest(**content: object) -> Callable[[Path], str]:
    def change(ci: Path) -> str:
        file = manifest.write(make_run(), ci)
        file.write_text(json.dumps({**json.loads(file.read_text()), **content}))
        return f"{file}: "

    return change


def changed_environment(**content: object) -> Callable[[Path], str]:
    whole = {"python": "3.12.1", "requirements": "aa", "packages": {}}
    return changed_manifest(environments={".nox/tools": {**whole, **content}})


def deeply_nested_manifest(ci: Path) -> str:
    ci.mkdir()
    file = ci / "lint.json"
    file.write_text("[" * 100_000)
    return f"{file}: not a valid manifest (RecursionError: "


def duplicate_manifest(ci: Path) -> str:
    first, second = (manifest.write(make_run(), ci / name) for name in ("a", "b"))
    return f"{first} and {second}: two manifests of lint; keep one"


@pytest.mark.parametrize(
    "damage",
    [
        missing_folder,
        empty_folder,
        truncated_manifest,
        duplicate_manifest,
        pytest.param(changed_manifest(format="manifest/9"), id="other_format"),
        pytest.param(changed_manifest(more=1), id="unknown_field"),
        pytest.param(changed_manifest(result="fine"), id="unknown_result"),
        pytest.param(changed_manifest(commands=[1]), id="wrong_type"),
        pytest.param(changed_manifest(environments=[]), id="no_environments"),
        pytest.param(changed_manifest(inputs=[]), id="inputs_list"),
        pytest.param(changed_manifest(inputs=False), id="inputs_false"),
        pytest.param(changed_manifest(inputs=""), id="inputs_string"),
        pytest.param(changed_manifest(inputs=0), id="inputs_number"),
        pytest.param(changed_manifest(inputs={"src/a.py": 1}), id="input_without_digest"),
        pytest.param(changed_manifest(reason=["no GPU"]), id="reason"),
        pytest.param(changed_manifest(tiers=[1]), id="tier"),
        pytest.param(changed_manifest(tools={"uv": None}), id="tool_without_version"),
        pytest.param(changed_manifest(seconds=True), id="seconds"),
        pytest.param(changed_manifest(seconds=10**400), id="seconds_too_large"),
        pytest.param(changed_environment(python=3), id="python"),
        pytest.param(changed_environment(requirements=None), id="requirements"),
        pytest.param(changed_environment(packages=["ruff"]), id="packages_list"),
        pytest.param(changed_environment(packages={"ruff": 1}), id="package_without_version"),
        pytest.param(changed_manifest(**{"\x1b[2J": 1}), id="field_that_clears_the_terminal"),
        pytest.param(changed_manifest(format="\x1b[2J\n"), id="format_that_clears_the_terminal"),
        deeply_nested_manifest,
    ],
)
def test_unreadable_manifests_are_reported_in_one_line_and_exit_2(
    damage: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write(make_run(), tmp_path / "local")
    problem = damage(tmp_path / "ci")
    with pytest.raises(SystemExit) as ended:
        parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"parity: {problem}")
    assert line.isprintable()


def test_manifest_contents_cannot_control_the_terminal(tmp_path: Path) -> None:
    yours = [make_run(), make_run("a\x1b[2Jb")]
    ci = [make_run(result="failed", reason="\x1b]0;title\x07 \ud800 \u202e"), make_run("a\x1b[2Jb")]
    for folder, runs in (("local", yours), ("ci", ci)):
        for run in runs:
            manifest.write(run, tmp_path / folder)
    found = parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")])
    assert found.differences == [
        r"lint: CI failed (\x1b]0;title\x07 \ud800 \u202e), you passed",
    ]
    assert found.sessions == [r"a\x1b[2Jb", "lint"]


def test_parity_needs_two_folders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parity.of_folders(["local"])
    assert ended.value.code == 2
    assert "nox -s parity -- local/ ci/" in capsys.readouterr().err


def test_laptop_and_runner_agree_and_a_planted_difference_is_named(
    sample_sessions: Path, tmp_path: Path
) -> None:
    """Run the same sessions in a working copy and, as CI does, in a clean clone elsewhere."""
    clone = tmp_path / "runner" / "work"
    git("clone", "--quiet", str(sample_sessions), str(clone), cwd=tmp_path)
    for root, variables in ((sample_sessions, {}), (clone, runner_variables(tmp_path))):
        checked = nox("-s", "locked", cwd=root, **variables)
        planned = nox("-s", "plan", "--", "pr", cwd=root, **variables)
        assert (checked.returncode, planned.returncode) == (0, 0), checked.stderr + planned.stderr
    folders = [str(root / "artifacts" / "manifests") for root in (sample_sessions, clone)]

    equal = nox("-s", "parity", "--", *folders, cwd=sample_sessions)

    assert equal.returncode == 0, equal.stdout + equal.stderr
    assert "The same in both: locked, plan" in equal.stderr
    run = manifest.read(Path(folders[1], "locked.json"))
    packages = run.environments[".nox/locked"].packages
    version, packages["hatchling"] = packages["hatchling"], "0.0.1"
    manifest.write(run, Path(folders[1]))
    different = nox("-s", "parity", "--", *folders, cwd=sample_sessions)
    assert different.returncode == 1
    assert different.stdout == f"locked: CI ran hatchling 0.0.1, you have {version}\n"


def runner_variables(tmp_path: Path) -> dict[str, str]:
    """Variables that only a hosted runner has; its home is empty apart from caches."""
    home = tmp_path / "home of the runner"
    home.mkdir()
    at_home = {"UV_CACHE_DIR": ".cache/uv", "PYENV_ROOT": ".pyenv"}
    cached = {
        name: os.environ.get(name, str(Path.home() / folder)) for name, folder in at_home.items()
    }
    return {"CI": "true", "GITHUB_ACTIONS": "true", "HOME": str(home), **cached}


def test_estimate_names_the_longest_job_and_bills_whole_minutes(tmp_path: Path) -> None:
    jobs = [
        PlannedJob(session=name, runner="cpu", timeout_minutes=9)
        for name in ("lint", "unit", "matrix(a-b)", "types", "failing")
    ]
    assert estimate.of([], tmp_path) == []
    unknown = f"plan: duration unknown: none of the {len(jobs)} jobs has passed in full here"
    assert estimate.of(jobs, tmp_path) == [unknown]
    for name, seconds in (("lint", 0.2), ("unit", 61.0), ("matrix(a-b)", 60.0)):
        manifest.write(make_run(name, seconds=seconds), tmp_path)
    partial = ["nox -s types -- src"]
    manifest.write(make_run("types", seconds=900.0, commands=partial), tmp_path)
    manifest.write(make_run("failing", seconds=900.0, result="failed"), tmp_path)
    (line,) = estimate.of(jobs, tmp_path)
    assert line.startswith("plan: about 61 s on hosted runners")
    assert "the longest is unit" in line
    assert "4 minutes billed for 3 jobs; unknown for 2 of 5 that have not passed here" in line

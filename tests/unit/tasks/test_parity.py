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
from tasks.evidence.manifest import Made, Manifest
from tests.repository import git, nox


def a_run(session: str = "lint", **differences: Any) -> Manifest:
    made = Made(python="3.12.1", requirements="aa", packages={"ruff": "0.17.6", "typos": "1.50"})
    run = Manifest(
        session=session,
        tiers=["pr"],
        result="passed",
        seconds=1.5,
        tools={"nox": "2026.10.20", "uv": "0.13.9"},
        environments={".nox/tools": made},
        commands=["nox -s lint", ".nox/tools/bin/typos ."],
        variables={},
        inputs={"README.md": "11", "src/a.py": "22"},
    )
    return replace(run, **differences)


def with_tools(**differences: Any) -> dict[str, Any]:
    made = a_run().environments[".nox/tools"]
    return {"environments": {".nox/tools": replace(made, **differences)}}


def compared(tmp_path: Path, yours: list[Manifest], ci: list[Manifest]) -> list[str]:
    for folder, runs in (("local", yours), ("ci/a job", ci)):
        for run in runs:
            manifest.write(run, tmp_path / folder)
    return parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")]).differences


def test_equal_runs_do_not_differ_by_their_seconds(tmp_path: Path) -> None:
    assert compared(tmp_path, [a_run()], [a_run(seconds=99.0)]) == []


@pytest.mark.parametrize(
    ("of_ci", "difference"),
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
            ".nox/tools holds the same versions by other hashes; compare uv.lock",
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
            "src/a.py is not the same",
            id="input",
        ),
        pytest.param({"inputs": {"README.md": "11"}}, "src/a.py is yours only", id="more_inputs"),
        pytest.param(
            {"inputs": None},
            "CI's inputs are not known, as that was no git repository",
            id="unknown_inputs",
        ),
        pytest.param(
            {"platform": "darwin-arm64"}, "CI ran on darwin-arm64, you on ", id="platform"
        ),
    ],
)
def test_each_difference_is_named(of_ci: dict[str, Any], difference: str, tmp_path: Path) -> None:
    (line,) = compared(tmp_path, [a_run()], [replace(a_run(), **of_ci)])
    assert line.startswith(f"lint: {difference}")


def test_what_a_job_leaves_beside_its_manifests_is_no_damaged_manifest(tmp_path: Path) -> None:
    manifest.write(a_run(), tmp_path / "local")
    manifest.write(a_run(), tmp_path / "ci" / "lint" / "manifests")
    (tmp_path / "ci" / "lint" / "verdicts.json").write_text("{}")
    folders = [str(tmp_path / name) for name in ("local", "ci")]
    assert parity.of_folders(folders).differences == []


def test_a_difference_of_several_sessions_is_one_line(tmp_path: Path) -> None:
    yours, ci = ([a_run(name, tools={"uv": uv}) for name in ("lint", "unit")] for uv in "12")
    assert compared(tmp_path, yours, ci) == ["lint, unit: CI ran uv 2, you have 1"]


def test_the_python_of_nox_counts_only_where_the_session_runs_in_it(tmp_path: Path) -> None:
    assert compared(tmp_path, [a_run()], [a_run(interpreter="3.13.0")]) == []
    yours, ci = (a_run("plan", environments={}, interpreter=each) for each in ("3.11.7", "3.13.0"))
    assert compared(tmp_path, [yours], [ci]) == ["plan: CI ran Python 3.13.0, you have 3.11.7"]


def test_what_only_one_side_ran_is_named_if_it_belongs_to_a_tier(tmp_path: Path) -> None:
    yours = [a_run(), a_run("dev", tiers=[]), a_run("unit")]
    assert compared(tmp_path, yours, [a_run(), a_run("matrix(a-b)")]) == [
        "matrix(a-b): CI ran it, and there is no manifest of it from you",
        "unit: you ran it, and there is no manifest of it from CI",
    ]


def test_a_skipped_run_is_compared_by_its_result_only(tmp_path: Path) -> None:
    skipped = a_run(result="skipped", reason="no GPU", commands=["nox -s lint"], environments={})
    assert compared(tmp_path, [skipped], [a_run()]) == ["lint: CI passed, you skipped (no GPU)"]


def no_folder(ci: Path) -> str:
    return f"{ci}: no such folder; nox leaves manifests in artifacts/manifests"


def empty(ci: Path) -> str:
    ci.mkdir()
    return f"{ci}: holds no manifest"


def cut_off(ci: Path) -> str:
    file = manifest.write(a_run(), ci)
    file.write_text(file.read_text()[:-20])
    return f"{file}: not a whole manifest (JSONDecodeError: "


def changed(**content: object) -> Callable[[Path], str]:
    def change(ci: Path) -> str:
        file = manifest.write(a_run(), ci)
        file.write_text(json.dumps({**json.loads(file.read_text()), **content}))
        return f"{file}: "

    return change


def made(**content: object) -> Callable[[Path], str]:
    whole = {"python": "3.12.1", "requirements": "aa", "packages": {}}
    return changed(environments={".nox/tools": {**whole, **content}})


def nested(ci: Path) -> str:
    ci.mkdir()
    file = ci / "lint.json"
    file.write_text("[" * 100_000)
    return f"{file}: not a whole manifest (RecursionError: "


def twice(ci: Path) -> str:
    first, second = (manifest.write(a_run(), ci / name) for name in ("a", "b"))
    return f"{first} and {second}: two manifests of lint; keep one"


@pytest.mark.parametrize(
    "damage",
    [
        no_folder,
        empty,
        cut_off,
        twice,
        pytest.param(changed(format="manifest/9"), id="other_format"),
        pytest.param(changed(more=1), id="unknown_field"),
        pytest.param(changed(result="fine"), id="unknown_result"),
        pytest.param(changed(commands=[1]), id="wrong_type"),
        pytest.param(changed(environments=[]), id="no_environments"),
        pytest.param(changed(inputs=[]), id="inputs_list"),
        pytest.param(changed(inputs=False), id="inputs_false"),
        pytest.param(changed(inputs=""), id="inputs_text"),
        pytest.param(changed(inputs=0), id="inputs_number"),
        pytest.param(changed(inputs={"src/a.py": 1}), id="input_without_digest"),
        pytest.param(changed(reason=["no GPU"]), id="reason"),
        pytest.param(changed(tiers=[1]), id="tier"),
        pytest.param(changed(tools={"uv": None}), id="tool_without_version"),
        pytest.param(changed(seconds=True), id="seconds"),
        pytest.param(changed(seconds=10**400), id="endless"),
        pytest.param(made(python=3), id="python"),
        pytest.param(made(requirements=None), id="requirements"),
        pytest.param(made(packages=["ruff"]), id="packages_list"),
        pytest.param(made(packages={"ruff": 1}), id="package_without_version"),
        pytest.param(changed(**{"\x1b[2J": 1}), id="field_that_clears_the_terminal"),
        pytest.param(changed(format="\x1b[2J\n"), id="format_that_clears_the_terminal"),
        nested,
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_2(
    damage: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write(a_run(), tmp_path / "local")
    problem = damage(tmp_path / "ci")
    with pytest.raises(SystemExit) as ended:
        parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"parity: {problem}")
    assert line.isprintable()


def test_what_a_manifest_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    yours = [a_run(), a_run("a\x1b[2Jb")]
    ci = [a_run(result="failed", reason="\x1b]0;title\x07 \ud800 \u202e"), a_run("a\x1b[2Jb")]
    for folder, runs in (("local", yours), ("ci", ci)):
        for run in runs:
            manifest.write(run, tmp_path / folder)
    found = parity.of_folders([str(tmp_path / "local"), str(tmp_path / "ci")])
    assert found.differences == [
        r"lint: CI failed (\x1b]0;title\x07 \ud800 \u202e), you passed",
    ]
    assert found.sessions == [r"a\x1b[2Jb", "lint"]


def test_two_folders_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parity.of_folders(["local"])
    assert ended.value.code == 2
    assert "nox -s parity -- local/ ci/" in capsys.readouterr().err


def test_a_laptop_and_a_runner_ran_the_same_and_a_planted_difference_is_named(
    own_sessions: Path, tmp_path: Path
) -> None:
    """The same lines in a working copy, and in a clean clone in another place as CI runs them."""
    clone = tmp_path / "runner" / "work"
    git("clone", "--quiet", str(own_sessions), str(clone), cwd=tmp_path)
    for root, variables in ((own_sessions, {}), (clone, a_runner(tmp_path))):
        checked = nox("-s", "locked", cwd=root, **variables)
        planned = nox("-s", "plan", "--", "pr", cwd=root, **variables)
        assert (checked.returncode, planned.returncode) == (0, 0), checked.stderr + planned.stderr
    folders = [str(root / "artifacts" / "manifests") for root in (own_sessions, clone)]

    equal = nox("-s", "parity", "--", *folders, cwd=own_sessions)

    assert equal.returncode == 0, equal.stdout + equal.stderr
    assert "The same in both: locked, plan" in equal.stderr
    run = manifest.read(Path(folders[1], "locked.json"))
    packages = run.environments[".nox/locked"].packages
    version, packages["hatchling"] = packages["hatchling"], "0.0.1"
    manifest.write(run, Path(folders[1]))
    different = nox("-s", "parity", "--", *folders, cwd=own_sessions)
    assert different.returncode == 1
    assert different.stdout == f"locked: CI ran hatchling 0.0.1, you have {version}\n"


def a_runner(tmp_path: Path) -> dict[str, str]:
    """What a hosted runner has that a laptop has not; its home is empty but for what is cached."""
    home = tmp_path / "home of the runner"
    home.mkdir()
    at_home = {"UV_CACHE_DIR": ".cache/uv", "PYENV_ROOT": ".pyenv"}
    cached = {
        name: os.environ.get(name, str(Path.home() / folder)) for name, folder in at_home.items()
    }
    return {"CI": "true", "GITHUB_ACTIONS": "true", "HOME": str(home), **cached}


def test_the_estimate_is_the_longest_job_and_whole_minutes_of_each(tmp_path: Path) -> None:
    jobs = [
        PlannedJob(session=name, runner="cpu", timeout_minutes=9)
        for name in ("lint", "unit", "matrix(a-b)", "types", "failing")
    ]
    assert estimate.of([], tmp_path) == []
    nothing = f"plan: unknown how long: none of {len(jobs)} jobs has passed whole here"
    assert estimate.of(jobs, tmp_path) == [nothing]
    for name, seconds in (("lint", 0.2), ("unit", 61.0), ("matrix(a-b)", 60.0)):
        manifest.write(a_run(name, seconds=seconds), tmp_path)
    of_a_part = ["nox -s types -- src"]
    manifest.write(a_run("types", seconds=900.0, commands=of_a_part), tmp_path)
    manifest.write(a_run("failing", seconds=900.0, result="failed"), tmp_path)
    (line,) = estimate.of(jobs, tmp_path)
    assert line.startswith("plan: about 61 s on hosted runners")
    assert "the longest is unit" in line
    assert "4 minutes are billed for 3 jobs; unknown for 2 of 5, not passed whole here" in line

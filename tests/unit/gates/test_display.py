"""Untrusted text can neither control a terminal nor give the CI runner a command."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.__main__ import main
from gates.display import harmless, in_one_line, show
from tests.judged import pair, write_policy, written
from tests.registered import Run
from tests.registered import write_policy as write_promotion_policy

HOSTILE = [
    "##[add-mask]x",
    "a ##[error]y",
    "##[stop-commands]t",
    "::error::z",
    "  ::set-output name=a::b",
    "\x1b[2J\x07",
    "a\u202eb",
    "a\u2028::error::b",
    "a\n##[set-output name=a]b",
    "a\r\n::error::b",
    "https://example.invalid/x",
    "www.example.invalid @everyone #12",
    "<img src=x>`|`[a](b)",
]
texts = st.sampled_from(HOSTILE) | st.text(
    st.sampled_from("#[]:\x1b\x07\n\r\u2028\u202e\x85 a") | st.characters(), max_size=12
)


def is_command(line: str) -> bool:
    """Return whether GitHub's runner parses `line` as a command, going by its source."""
    return line.lstrip().startswith("::") or "##[" in line


@given(texts)
def test_escaped_text_is_one_printable_line_without_a_command(text: str) -> None:
    for shown in (harmless(text), in_one_line(text)):
        assert shown.isprintable()
        assert not is_command(shown)


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=12))
def test_text_without_a_command_is_unchanged(text: str) -> None:
    if not is_command(text):
        assert harmless(text) == text


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a GitHub job in an empty folder; return the path of its summary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


OUR_COMMAND = re.compile(r"::(error|warning) title=[^:]*::")


def assert_harmless(out: str, err: str, summary: Path) -> None:
    """Assert that neither a command's output nor its summary can do harm on a runner."""
    for line in (out + err).split("\n"):
        assert line.isprintable()
        ours = OUR_COMMAND.match(line)
        assert not is_command(line[ours.end() :] if ours else line), line
    page = summary.read_text(encoding="utf-8") if summary.exists() else ""
    assert all(line.isprintable() for line in page.split("\n"))
    outside_code = re.sub(r"`[^`\n]*`", "", page.replace("\\`", ""))
    assert not re.search(r"://|www\.|<img|(?<!\\)\[a|@everyone", outside_code), page


@pytest.mark.parametrize("text", HOSTILE)
def test_subgroup_names_are_shown_as_plain_text(
    text: str, github: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"kind": np.array([text, "b"] * 100)}
    for each, name in zip(
        pair(100, 0, 60, 40, subgroups=kinds), ("candidate", "baseline"), strict=True
    ):
        written(each, Path(), name)
    write_policy(Path("policy.yaml"), {"subgroups.columns": {"kind": []}})
    files = ["--candidate", "candidate.parquet", "--baseline", "baseline.parquet"]
    assert main(["evaluate", *files, "--policy", "policy.yaml"]) == 1
    assert_harmless(*capsys.readouterr(), github)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--policy", "policy.yaml", "--no-baseline", "{}", "--candidate", "{}"],
        ["register", "--run", "{}", "--name", "{}"],
        ["register", "--run", "run", "--verdict", "{}", "--name", "m"],
        ["promote", "--name", "m", "--to", "{}"],
        ["promote", "--name", "m", "--to", "staging", "--policy", "{}"],
        ["rollback", "--name", "{}"],
        ["status", "--name", "{}"],
        ["history", "--name", "{}"],
        ["history", "--name", "m", "--against", "{}"],
        ["trace", "{}"],
        ["card", "--run", "{}", "--verdict", "{}"],
        ["sbom", "--project", "mine", "--lock", "{}", "--output", "sbom.json"],
        ["mlbom", "--run", "{}", "--verdict", "{}"],
        ["audit", "--lock", "{}", "--settings", "{}"],
        ["{}"],
    ],
    ids=" ".join,
)
def test_arguments_are_shown_as_plain_text(
    command: list[str], text: str, github: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_policy(Path("policy.yaml"))
    try:
        code = main([word.format(text) for word in command])
    except SystemExit as error:  # raised by argparse
        code = int(str(error.code))
    assert code == 2
    assert_harmless(*capsys.readouterr(), github)


@pytest.mark.parametrize("text", HOSTILE)
def test_approver_and_reason_are_shown_as_plain_text(
    text: str, github: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATES_REGISTRY", "wandb://a/b")
    monkeypatch.setenv("WANDB_MODE", "offline")
    rules = write_promotion_policy(Path())
    arguments = ["--why", text, "--approver", text, "--policy", str(rules)]
    assert main(["promote", "--name", "m", "--to", "staging", *arguments]) == 2
    assert_harmless(*capsys.readouterr(), github)


@pytest.mark.parametrize("text", HOSTILE)
def test_provenance_is_shown_as_plain_text(
    text: str, github: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs").mkdir()
    run = Run(Path("outputs") / "run", b"weights")
    file = run.folder / "provenance.json"
    escaped = text.encode("unicode_escape").decode().replace("\\x", "\\u00").replace('"', '\\"')
    file.write_text(
        file.read_text().replace("0123456789abcdef0123456789abcdef01234567", f"1234567{escaped}")
    )
    main(["trace", "1234567"])
    assert_harmless(*capsys.readouterr(), github)


def test_a_tab_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\tb")
    assert capsys.readouterr().out == "a\\tb\n"

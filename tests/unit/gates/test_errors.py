import os
import re
import subprocess
import sys

import pytest

from gates.__main__ import main
from gates.errors import (
    CheckpointError,
    CommandParser,
    ConfigError,
    ExitCode,
    GateError,
    GateInputError,
    TrainingError,
    run_command,
)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["evaluat"], "'evaluat' (choose from evaluate, promote); did you mean evaluate?; see"),
        (["zzz"], "'zzz' (choose from evaluate, promote); see --help"),
        (
            ["promote", "--polic=x"],
            "promote: unrecognized arguments: --polic=x; did you mean",
        ),
        (["promote", "--polic", "x"], "arguments: --polic x; did you mean --policy?; see --help"),
        (["promote", "policy.yaml"], "did you mean --policy policy.yaml?; see --help"),
        (["promote", "zzz"], "promote: unrecognized arguments: zzz; see --help"),
        (["promote", "--to", "stagin"], "did you mean staging?; see --help"),
        (["promote", ""], "promote: unrecognized arguments: ; see --help"),
    ],
)
def test_a_misspelt_argument_is_told_with_the_nearest_one(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = CommandParser(prog="python -m gates", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("evaluate", allow_abbrev=False)
    promote = commands.add_parser("promote", allow_abbrev=False)
    promote.add_argument("--policy")
    promote.add_argument("--to", choices=["staging", "production"])
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    assert stopped.value.code == 2
    # Python 3.11 and 3.12 put quotes around each choice.
    choices = re.sub(r"(?<=[( ])'([\w-]+)'(?=[,)])", r"\1", capsys.readouterr().err)
    assert hint in choices
    assert choices.count("\n") == 1


@pytest.mark.parametrize("code", list(ExitCode))
def test_exit_code_of_the_command_is_passed_on(code: ExitCode) -> None:
    assert run_command(lambda: code) == code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param(GateError, 2, id="any_other"),
        pytest.param(GateInputError, 2, id="input"),
        pytest.param(ConfigError, 2, id="config"),
        pytest.param(CheckpointError, 2, id="checkpoint"),
        pytest.param(TrainingError, 1, id="training"),
    ],
)
def test_error_becomes_its_exit_code_and_one_line(
    kind: type[GateError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        msg = "a.yaml: first\n  second\n\tthird"
        raise kind(msg)

    assert run_command(command) == code
    printed = capsys.readouterr()
    assert printed.err == "a.yaml: first second third\n"
    assert printed.out == ""


def test_interrupt_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> ExitCode:
        raise KeyboardInterrupt

    # 128 and the number of SIGINT, as shells have it.
    assert run_command(command) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(
            OSError(28, "No space left on device", "a.pt"),
            "a.pt: No space left on device\n",
            id="full_disk",
        ),
        pytest.param(OSError("gone"), "a file: gone\n", id="of_few_words"),
    ],
)
def test_error_of_the_system_is_told_in_one_line(
    error: OSError, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        raise error

    assert run_command(command) == 2
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, AssertionError, TypeError])
def test_what_nobody_foresaw_is_one_line_and_no_verdict(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        msg = "a\nb"
        raise kind(msg)

    assert run_command(command) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"unexpected {kind.__name__}: ")
    assert line.count("\n") == 1
    monkeypatch.setenv("GATES_TRACEBACK", "1")
    assert run_command(command) == 2
    assert "Traceback (most recent call last):" in capsys.readouterr().err


PASSES = (
    "from gates.display import show; from gates.errors import ExitCode, run_command; import sys; "
)
PASSES += "sys.exit(run_command(lambda: show('x' * 100_000) or ExitCode.FAILED))"


def test_a_closed_stdout_changes_no_verdict() -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", PASSES],  # noqa: S607
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "")


def shown_to(descriptor: int) -> tuple[int, str]:
    """Return the exit code and stderr of a command whose stdout is `descriptor`."""
    ended = subprocess.run(
        [sys.executable, "-c", PASSES],
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(descriptor)
    return ended.returncode, ended.stderr


def test_a_verdict_that_a_full_disk_cannot_hold_exits_2() -> None:
    code, error = shown_to(os.open("/dev/full", os.O_WRONLY))
    assert (code, error.count("\n"), "Traceback" in error) == (2, 1, False)


def test_a_reader_that_has_seen_enough_changes_no_verdict() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert shown_to(writing) == (1, "")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("rapidfuzz", ["audit"]),
        ("cyclonedx", ["sbom", "--project", "mine"]),
    ],
)
def test_a_command_whose_extra_is_missing_names_it(
    module: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.startswith((f"{module}.", "gates.supply"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not installed; install the extra: gates[supply]")

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
def test_a_misspelt_argument_is_reported_with_a_suggestion(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = CommandParser(prog="python -m gates", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("evaluate", allow_abbrev=False)
    promote = commands.add_parser("promote", allow_abbrev=False)
    promote.add_argument("--policy")
    promote.add_argument("--to", choices=["staging", "production"])
    with pytest.raises(SystemExit) as raised:
        parser.parse_args(words)
    assert raised.value.code == 2
    # Python 3.11 and 3.12 put quotes around each choice.
    printed = re.sub(r"(?<=[( ])'([\w-]+)'(?=[,)])", r"\1", capsys.readouterr().err)
    assert hint in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("code", list(ExitCode))
def test_exit_code_of_the_command_is_returned(code: ExitCode) -> None:
    assert run_command(lambda: code) == code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param(GateError, 2, id="base_class"),
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


def test_interrupt_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> ExitCode:
        raise KeyboardInterrupt

    # 128 plus the number of SIGINT, as in a shell.
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
        pytest.param(OSError("gone"), "a file: gone\n", id="message_only"),
    ],
)
def test_os_error_is_reported_in_one_line(
    error: OSError, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        raise error

    assert run_command(command) == 2
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, AssertionError, TypeError])
def test_unexpected_error_is_one_line_and_exits_2(
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


FAILING_PROGRAM = (
    "from gates.display import show; from gates.errors import ExitCode, run_command; import sys; "
)
FAILING_PROGRAM += "sys.exit(run_command(lambda: show('x' * 100_000) or ExitCode.FAILED))"


def test_a_closed_stdout_does_not_change_the_exit_code() -> None:
    completed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", FAILING_PROGRAM],  # noqa: S607
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (1, "")


def run_with_stdout(descriptor: int) -> tuple[int, str]:
    """Return the exit code and stderr of a command whose stdout is `descriptor`."""
    completed = subprocess.run(
        [sys.executable, "-c", FAILING_PROGRAM],
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(descriptor)
    return completed.returncode, completed.stderr


def test_a_verdict_that_does_not_fit_on_the_disk_exits_2() -> None:
    code, error = run_with_stdout(os.open("/dev/full", os.O_WRONLY))
    assert (code, error.count("\n"), "Traceback" in error) == (2, 1, False)


def test_a_closed_pipe_does_not_change_the_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert run_with_stdout(writing) == (1, "")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("rapidfuzz", ["audit"]),
        ("cyclonedx", ["sbom", "--project", "mine"]),
    ],
)
def test_a_missing_extra_is_named(
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

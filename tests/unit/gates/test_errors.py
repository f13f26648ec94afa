import pytest

from gates.errors import (
    CheckpointError,
    ConfigError,
    ExitCode,
    GateError,
    GateInputError,
    TrainingError,
    run_command,
)


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


def test_fault_of_our_own_keeps_its_traceback() -> None:
    def command() -> ExitCode:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command)

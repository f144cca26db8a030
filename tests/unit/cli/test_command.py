from __future__ import annotations

import argparse
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.command import Command, CommandError, execute, on_server, quiet
from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError
from tests.unit.builders import build_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.cli.output import Output


def do(run: Callable[[argparse.Namespace, Output], int]) -> int:
    return execute(Command("do", "", "", "", (), run), argparse.Namespace())


def raising(error: BaseException) -> Any:
    def run(*_: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (CommandError("It is wrong", "Fix it."), 2, "It is wrong. Fix it."),
        (CommandError("It has failed", "Try again.", 1), 1, "It has failed. Try again."),
        (ConfigurationError("a.b", "is wrong", "write c"), 2, "a.b is wrong; write c"),
        (ConnectionUnavailableError("docker_default", build_failure()), 1, "Connection 'docker_default' has no"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    error: Exception, exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error."""
    assert do(raising(error)) == exit_code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"ecr-secrets-backend do: {message}")
    assert errors.count("\n") == 1


def test_a_bug_is_one_line_that_can_be_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """It has the exception's type and places, and not its words, which may quote a token."""

    def run(_: object, __: Output) -> int:
        raise KeyError("ey.token\nof two lines")

    assert do(run) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    line = r"ecr-secrets-backend do: Unexpected KeyError \(at test_command\.py:\d+, command\.py:\d+\)\. .* bug\.\n"
    assert re.fullmatch(line, errors)


def test_a_deep_bug_is_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A recursion without an end has a thousand places."""

    def run(options: argparse.Namespace, output: Output) -> int:
        return run(options, output)

    assert do(run) == 1
    assert len(capsys.readouterr().err) < 400


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is the one that shells report."""
    assert do(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_standard_output_is_for_the_result_alone(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Other code may print or log; and Airflow's own logging, which may print there, does not get our lines."""

    def run(_: object, output: Output) -> int:
        sys.stdout.write("noise\n")
        logging.getLogger("ecr_secrets_backend.x").warning("a warning")
        output.text("result")
        return 0

    assert do(run) == 0
    output, errors = capsys.readouterr()
    assert output == "result\n"
    assert "noise" in errors
    assert "WARNING a warning" in errors
    assert caplog.records == []


def test_logging_is_left_as_it_was() -> None:
    """Airflow may run more than a command in this process."""
    logger = logging.getLogger("ecr_secrets_backend")
    before = (list(logger.handlers), logger.level, logger.propagate)
    do(lambda *_: 0)

    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_a_server_s_logging_is_left_alone() -> None:
    """Other requests log at the same time; so it is in the thread in which a step of ``check`` runs."""

    def run_quietly() -> int:
        with quiet():
            return logging.root.manager.disable

    before = logging.root.manager.disable
    with on_server():
        assert within(5, run_quietly) == before
    assert within(5, run_quietly) == logging.CRITICAL
    assert logging.root.manager.disable == before

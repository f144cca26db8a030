from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.command import Command, CommandError, execute, keeps_library_logs, suppress_library_logs
from ecr_secrets_backend.cli.output import OutputError
from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError
from tests.unit.builders import build_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.cli.output import Output


def do(run: Callable[[argparse.Namespace, Output], int]) -> int:
    return execute(Command("do", "", "", "", (), run), argparse.Namespace())


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (CommandError("It is wrong", "Fix it."), 2, "It is wrong. Fix it.\n"),
        (CommandError("It has failed", "Try again.", 1), 1, "It has failed. Try again.\n"),
        (ConfigurationError("a.b", "is wrong", "Write c."), 2, "a.b is wrong. Write c.\n"),
        (ConnectionUnavailableError("docker_default", build_failure()), 1, ".*'docker_default': .*: not allowed .*\n"),
        (OutputError(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), 1, "Cannot write to .*: No space left .*\n"),
        (OutputError(BrokenPipeError()), 1, ""),
        (KeyboardInterrupt(), 130, ""),
        # Not the message of the exception, which may quote a token.
        (KeyError("ey.token\nof two lines"), 1, r"Unexpected KeyError \(at test_command\.py:\d+, .*\)\. .* bug\.\n"),
    ],
)
def test_a_failure_is_an_exit_code_and_one_line_on_standard_error(
    error: BaseException, exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> int:
        raise error

    assert do(run) == exit_code
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(message and f"ecr-secrets-backend do: {message}", errors)


def test_the_line_of_a_deep_traceback_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    def run(options: argparse.Namespace, output: Output) -> int:
        return run(options, output)

    assert do(run) == 1
    assert len(capsys.readouterr().err) < 400


def test_standard_output_is_for_the_result_alone(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Other output and our log lines go to standard error, and the logging of the process is restored."""

    def run(_: object, output: Output) -> int:
        sys.stdout.write("noise\n")
        logging.getLogger("ecr_secrets_backend.x").warning("a warning")
        output.text("result")
        return 0

    def state() -> Any:
        logger = logging.getLogger("ecr_secrets_backend")
        return list(logger.handlers), logger.level, logger.propagate

    before = state()
    assert do(run) == 0
    output, errors = capsys.readouterr()
    assert output == "result\n"
    assert re.fullmatch("noise\n.* WARNING a warning\n", errors)
    assert caplog.records == []
    assert state() == before


def test_library_logs_are_suppressed_but_not_in_a_server() -> None:
    """Other requests of a server log at the same time. A step of ``check`` runs in a thread of its own."""

    def log_level_in_step() -> int:
        with suppress_library_logs():
            return logging.root.manager.disable

    def serve() -> int:
        keeps_library_logs.set(True)
        return within(5, log_level_in_step)

    before = logging.root.manager.disable
    assert copy_context().run(serve) == before
    assert within(5, log_level_in_step) == logging.CRITICAL
    assert logging.root.manager.disable == before

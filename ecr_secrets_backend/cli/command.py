"""Define a command, run it, and report its failure in one line."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecr_secrets_backend.cli.output import Output, OutputError, print_error
from ecr_secrets_backend.errors import ConfigurationError, EcrSecretsBackendError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

SUCCESS: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130  # as shells report SIGINT
MAX_FRAMES: Final = 8  # the innermost frames of a traceback, down to a library's

#: If True, :func:`suppress_library_logs` does nothing. A server sets it for a request, because suppressing logs and
#: warnings would affect all threads of the process.
keeps_library_logs: Final = ContextVar("ecr_secrets_backend_keeps_library_logs", default=False)


def argument(*flags: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:  # noqa: ANN401 - argparse's own
    """Return the parameters of ``add_argument``."""
    return flags, options


class Command(NamedTuple):
    """A command, for this package's parser and for Airflow's.

    :param epilog: examples
    :param arguments: the parameters of ``add_argument`` for each argument, from :func:`argument`
    :param run: runs the command and returns the exit code
    """

    name: str
    help: str
    description: str
    epilog: str
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...]
    run: Callable[[argparse.Namespace, Output], int]


@dataclass(eq=False)
class CommandError(EcrSecretsBackendError):
    """A command fails or cannot start, with the problem, the fix and the exit code."""

    problem: str
    fix: str
    exit_code: int = WRONG_USAGE

    def __str__(self) -> str:
        return f"{self.problem}. {self.fix}"


def execute(command: Command, options: argparse.Namespace) -> int:
    """Run a command, report its failure in one line on standard error, and return the exit code.

    Standard output has only the command's result. The output of other code, such as Airflow while it is imported, goes
    to standard error.
    """
    output = Output(sys.stdout)
    exit_code = FAILED
    try:
        with redirect_stdout(sys.stderr), _log_to_stderr():
            return command.run(options, output)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        if isinstance(error.cause, BrokenPipeError):  # the reader has closed the pipe
            return FAILED
        problem = str(error)
    except CommandError as error:
        problem, exit_code = str(error), error.exit_code
    except ConfigurationError as error:
        problem, exit_code = str(error), WRONG_USAGE
    except EcrSecretsBackendError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - a bug: one line, as for any other failure
        problem = f"{describe_exception(error)}. Report this line as a bug."
    print_error(f"ecr-secrets-backend {command.name}: {problem}\n")
    return exit_code


def describe_exception(error: Exception) -> str:
    """Return an exception's type and the lines of its traceback, but not its message, which may quote a secret."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    lines = [f"{Path(name).name}:{line}" for name, line in reversed(frames[-MAX_FRAMES:])]
    return f"Unexpected {type(error).__qualname__} (at {', '.join(lines)})"


@contextmanager
def suppress_library_logs() -> Iterator[None]:
    """Suppress the logs and warnings of libraries in this context: the command reports what matters."""
    if keeps_library_logs.get():
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Log the package's lines to standard error, and not to Airflow's handlers."""
    logger = logging.getLogger("ecr_secrets_backend")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate

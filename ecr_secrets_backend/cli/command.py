"""What a command is, and how one runs: where it prints, and how it reports its failures."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.cli.output import Output, OutputError, report
from ecr_secrets_backend.errors import ConfigurationError, EcrSecretsBackendError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

GOOD: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130  # as shells report SIGINT
MOST_PLACES: Final = 8  # of a traceback: from a library's innermost function to ours


@dataclass(frozen=True)
class Argument:
    """An argument of a command, as argparse takes it."""

    flags: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*flags: str, **options: Any) -> Argument:  # noqa: ANN401 - argparse's own
    """Return an argument, with the parameters of ``add_argument``."""
    return Argument(flags, options)


@dataclass(frozen=True)
class Command:
    """A command, for this package's own parser and for Airflow's.

    :param epilog: examples
    :param run: runs it, and returns the exit code
    """

    name: str
    help: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    run: Callable[[argparse.Namespace, Output], int]


class CommandError(EcrSecretsBackendError):
    """A command that fails, or cannot begin.

    :param problem: what is wrong
    :param fix: how to fix it
    :param exit_code: of the process
    """

    def __init__(self, problem: str, fix: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(problem, fix, exit_code)
        self.problem = problem
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.problem}. {self.fix}"


def execute(command: Command, options: argparse.Namespace) -> int:
    """Run a command, and report its failure in one line on standard error.

    Standard output is for the command's result alone. What other code prints there, such as Airflow at its import, goes
    to standard error.

    :return: the exit code
    """
    output = Output(sys.stdout)
    try:
        with redirect_stdout(sys.stderr), _logging():
            return command.run(options, output)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        if isinstance(error.cause, BrokenPipeError):  # the reader has read enough
            return FAILED
        problem, exit_code = str(error), FAILED
    except CommandError as error:
        problem, exit_code = str(error), error.exit_code
    except ConfigurationError as error:
        problem, exit_code = str(error), WRONG_USAGE
    except EcrSecretsBackendError as error:
        problem, exit_code = str(error), FAILED
    except Exception as error:  # noqa: BLE001 - a bug: one line, as for any other failure
        problem, exit_code = f"{describe_bug(error)}. Please report this line as a bug.", FAILED
    report(f"ecr-secrets-backend {command.name}: {problem}\n")
    return exit_code


def describe_bug(error: Exception) -> str:
    """Return an exception's type and places, the innermost first: its words may quote a secret."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    places = [f"{Path(name).name}:{line}" for name, line in reversed(frames[-MOST_PLACES:])]
    return f"Unexpected {type(error).__qualname__} (at {', '.join(places)})"


#: Whether this is a server's process, in which other threads log as well.
_is_server: Final = ContextVar("ecr_secrets_backend_is_server", default=False)


@contextmanager
def on_server() -> Iterator[None]:
    """Leave logging and warnings, which are the whole process's, as they are within this context."""
    token = _is_server.set(True)
    try:
        yield
    finally:
        _is_server.reset(token)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and warnings of libraries: the command reports what matters."""
    if _is_server.get():
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
def _logging() -> Iterator[None]:
    """Log the package's own lines to standard error, whatever Airflow's logging does."""
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

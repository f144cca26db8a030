"""What a command is, and how one is run: what it may print where, and what its failures become."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
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
    """An argument of a command, in the words of argparse."""

    flags: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*flags: str, **options: Any) -> Argument:  # noqa: ANN401 - argparse's own
    """Name an argument as ``add_argument`` does."""
    return Argument(flags, options)


@dataclass(frozen=True)
class Command:
    """A command, for our own parser and for Airflow's.

    :param epilog: examples
    :param run: does it, and returns the exit code
    """

    name: str
    help: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    run: Callable[[argparse.Namespace, Output], int]


class CommandError(EcrSecretsBackendError):
    """A command that cannot do its work.

    :param problem: what is wrong
    :param remedy: what to do about it
    :param exit_code: what the process is to end with
    """

    def __init__(self, problem: str, remedy: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(problem, remedy, exit_code)
        self.problem = problem
        self.remedy = remedy
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}"


def execute(command: Command, options: argparse.Namespace) -> int:
    """Run a command and put its failure into one line on standard error.

    Standard output is the command's result alone: whatever else prints or logs there, Airflow's import among it, goes
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
        problem, exit_code = _describe_bug(error), FAILED
    report(f"ecr-secrets-backend {command.name}: {problem}\n")
    return exit_code


def _describe_bug(error: Exception) -> str:
    """Return an exception's type and places, the innermost first: its words may quote a secret."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    places = [f"{Path(name).name}:{line}" for name, line in reversed(frames[-MOST_PLACES:])]
    return f"Unexpected {type(error).__qualname__} (at {', '.join(places)}). Please report this line as a bug."


@contextmanager
def quiet() -> Iterator[None]:
    """Leave it to the command to tell what libraries would log and warn of as well."""
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
    """Have the package's own lines on standard error, and nobody else's logging decide over them."""
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

# PYTHON_ARGCOMPLETE_OK
"""The command ``ecr-secrets-backend``: one module for each, on the same modules as the backend.

Nothing here imports Airflow before the command line has been read: with ``--backend-kwargs`` no command needs it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from ecr_secrets_backend import __version__
from ecr_secrets_backend.cli import check, clear, configuration, docker_config, status, token
from ecr_secrets_backend.cli.command import Command, execute
from ecr_secrets_backend.cli.output import standard_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = (check.COMMAND, token.COMMAND, docker_config.COMMAND, status.COMMAND, clear.COMMAND)
DESCRIPTION: Final = "Live Amazon ECR logins for Airflow's Docker connections: check them, and use them elsewhere."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    :param arguments: the command line; None: this process's own
    :return: the exit code: 0 success, 1 failure, 2 wrong usage or configuration
    :raises SystemExit: the command line is wrong or asks for help, or standard output does not take what is printed
    """
    import argcomplete

    with standard_streams():
        parser = build_parser()
        argcomplete.autocomplete(parser)
        options = parser.parse_args(arguments)
        command: Command = options.command
        exit_code = execute(command, options)
    sys.stdout = sys.stderr  # Airflow, where it was imported, logs to the very end
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    from rich_argparse import RawTextRichHelpFormatter

    parser = argparse.ArgumentParser(
        "ecr-secrets-backend", description=DESCRIPTION, formatter_class=RawTextRichHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=RawTextRichHelpFormatter,
        )
        for argument in command.arguments:
            action = own.add_argument(*argument.flags, **argument.options)
            if argument.options.get("metavar") == configuration.CONN_ID:
                action.completer = configuration.complete  # type: ignore[attr-defined]
        own.set_defaults(command=command)
    return parser

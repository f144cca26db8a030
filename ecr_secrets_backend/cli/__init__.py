# PYTHON_ARGCOMPLETE_OK
"""The program ``ecr-secrets-backend``, with a module for each command.

No module imports Airflow before the command line is parsed: with ``--backend-kwargs``, commands do not need it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from ecr_secrets_backend import __version__
from ecr_secrets_backend.cli import check, clear, configuration, docker_config, status, token
from ecr_secrets_backend.cli.command import Command, execute
from ecr_secrets_backend.cli.output import guard_standard_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = (check.COMMAND, token.COMMAND, docker_config.COMMAND, status.COMMAND, clear.COMMAND)
DESCRIPTION: Final = "Check the Amazon ECR logins of Airflow's Docker connections, and use them in other programs."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    :param arguments: the command line; None: that of this process
    :return: the exit code: 0 success, 1 failure, 2 wrong usage or configuration
    :raises SystemExit: the command line is wrong or has ``--help``, or standard output cannot be written
    """
    import argcomplete

    with guard_standard_streams():
        parser = build_parser()
        argcomplete.autocomplete(parser)
        options = parser.parse_args(arguments)
        command: Command = options.command
        exit_code = execute(command, options)
    sys.stdout = sys.stderr  # if Airflow was imported, it may log until the process ends
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
        subparser = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=RawTextRichHelpFormatter,
        )
        for flags, settings in command.arguments:
            action = subparser.add_argument(*flags, **settings)
            if action.metavar == configuration.CONN_ID:
                action.completer = configuration.complete_conn_id  # type: ignore[attr-defined]
        subparser.set_defaults(command=command)
    return parser

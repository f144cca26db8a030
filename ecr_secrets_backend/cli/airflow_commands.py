"""``airflow ecr``: the same commands, in Airflow 3.2 and newer, where a provider may add commands."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend.cli import COMMANDS, DESCRIPTION
from ecr_secrets_backend.cli.command import GOOD, execute
from ecr_secrets_backend.cli.output import standard_streams

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.cli.command import Command


def get_cli_commands() -> list[Any]:
    """Return the group of commands, as Airflow's parser takes it."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    commands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog.replace("ecr-secrets-backend", "airflow ecr"),
            args=[
                Arg(argument.flags, **argument.options)  # type: ignore[no-untyped-call, unused-ignore]
                for argument in command.arguments
            ],
            func=partial(_run, command),
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="ecr", help="Live logins for Amazon ECR", description=DESCRIPTION, subcommands=commands)]


def _run(command: Command, options: argparse.Namespace) -> None:
    with standard_streams():
        exit_code = execute(command, options)
    if exit_code != GOOD:
        sys.exit(exit_code)

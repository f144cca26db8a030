"""``airflow ecr``: the commands in Airflow's own program, from Airflow 3.2 on."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend.cli import COMMANDS, DESCRIPTION
from ecr_secrets_backend.cli.command import execute
from ecr_secrets_backend.cli.output import guard_standard_streams

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.cli.command import Command


def get_cli_commands() -> list[Any]:
    """Return the group of commands for Airflow's parser."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    commands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog.replace("ecr-secrets-backend", "airflow ecr"),
            args=[Arg(flags, **options) for flags, options in command.arguments],  # type: ignore[no-untyped-call, unused-ignore]
            func=partial(_run, command),
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="ecr", help="Check and use ECR logins", description=DESCRIPTION, subcommands=commands)]


def _run(command: Command, options: argparse.Namespace) -> None:
    with guard_standard_streams():
        exit_code = execute(command, options)
    sys.exit(exit_code)

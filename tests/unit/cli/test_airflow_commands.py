from __future__ import annotations

import argparse
from contextlib import nullcontext

import pytest

from ecr_secrets_backend.cli import COMMANDS, airflow_commands
from ecr_secrets_backend.cli.airflow_commands import get_cli_commands


def test_airflow_gets_each_command() -> None:
    """With its own name in the examples."""
    (group,) = get_cli_commands()

    assert [each.name for each in group.subcommands] == [command.name for command in COMMANDS]
    assert all("airflow ecr" in each.epilog and "ecr-secrets-backend" not in each.epilog for each in group.subcommands)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_command_of_airflow_ends_as_ours_does(monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    """A failure is the process's exit code."""
    monkeypatch.setattr(airflow_commands, "execute", lambda *_: exit_code)
    (group,) = get_cli_commands()

    with pytest.raises(SystemExit) if exit_code else nullcontext() as ended:
        group.subcommands[0].func(argparse.Namespace())

    assert ended is None or ended.value.code == exit_code

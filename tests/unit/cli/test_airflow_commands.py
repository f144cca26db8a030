from __future__ import annotations

import argparse

import pytest

from ecr_secrets_backend.cli import COMMANDS, airflow_commands
from ecr_secrets_backend.cli.airflow_commands import get_cli_commands


def test_airflow_has_each_command() -> None:
    (group,) = get_cli_commands()

    assert [each.name for each in group.subcommands] == [command.name for command in COMMANDS]
    assert all("airflow ecr" in each.epilog and "ecr-secrets-backend" not in each.epilog for each in group.subcommands)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_an_airflow_command_has_the_exit_code_of_ours(monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    monkeypatch.setattr(airflow_commands, "execute", lambda *_: exit_code)
    (group,) = get_cli_commands()

    with pytest.raises(SystemExit) as ended:
        group.subcommands[0].func(argparse.Namespace())

    assert ended.value.code == exit_code

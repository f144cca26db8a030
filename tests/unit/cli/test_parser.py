from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import __version__
from ecr_secrets_backend.cli import COMMANDS, main

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each command, and ends well."""
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])

    assert ended.value.code == 0
    assert f"  ecr-secrets-backend {name}" in capsys.readouterr().out


def test_help_is_printed_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are rich's markup, and would be lost."""
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command.name, "--help"])
        printed = capsys.readouterr().out
        for line in (*command.description.splitlines(), *command.epilog.splitlines()):
            assert line in printed


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The package's."""
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"ecr-secrets-backend {__version__}\n"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ecr-secrets-backend to", ["token"]),
        ("ecr-secrets-backend token --backend-kwargs {file} docker_d", ["docker_default"]),
        ("ecr-secrets-backend check --backend-kwargs {file} docker_eu --output ", ["table", "json"]),
        ("ecr-secrets-backend token --backend-kwargs /nowhere d", []),
    ],
)
def test_the_shell_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    """Commands, choices, and the connections that are mapped, by argcomplete's own protocol."""
    connections = {"docker_default": "public.ecr.aws", "docker_eu": {"region_name": "eu-west-1"}}
    (tmp_path / "kwargs.json").write_text(json.dumps({"connections": connections}))
    script = Path(sys.executable).with_name("ecr-secrets-backend")
    line = line.format(file=tmp_path / "kwargs.json")
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = ["sh", "-c", f'"{script}" 8> "{tmp_path}/offered"']
    subprocess.run(command, env={**os.environ, **asked}, check=False)

    assert [each.strip() for each in (tmp_path / "offered").read_text().split("\v") if each] == offered


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("token",), ("status", "--output", "xml")])
def test_a_wrong_command_line(run: Run, arguments: tuple[str, ...]) -> None:
    """By argparse's own message."""
    assert "usage: ecr-secrets-backend" in run(*arguments, exit_code=2).stderr.lower()

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import __version__
from ecr_secrets_backend.cli import COMMANDS

if TYPE_CHECKING:
    from ecr_secrets_backend.cli.command import Command
    from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_printed_unchanged(command: Command, run: Run) -> None:
    """It has examples, and rich does not take square brackets for markup."""
    printed = run(command.name, "--help").stdout

    assert f"  ecr-secrets-backend {command.name}" in printed
    assert all(line in printed for line in f"{command.description}\n{command.epilog}".splitlines())


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").stdout == f"ecr-secrets-backend {__version__}\n"


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("to", ["token"]),
        ("token --backend-kwargs {file} docker_d", ["docker_default"]),
    ],
)
def test_the_shell_completes(line: str, completions: list[str], file: tuple[str, str], tmp_path: Path) -> None:
    line = f"ecr-secrets-backend {line.format(file=file[1])}"
    script = Path(sys.executable).with_name("ecr-secrets-backend")
    protocol = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = ["sh", "-c", f'"{script}" 8> "{tmp_path}/completions"']
    subprocess.run(command, env={**os.environ, **protocol}, check=False)

    assert [each.strip() for each in (tmp_path / "completions").read_text().split("\v") if each] == completions


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("token",), ("status", "--output", "xml")])
def test_a_wrong_command_line_shows_the_usage(run: Run, arguments: tuple[str, ...]) -> None:
    assert "usage: ecr-secrets-backend" in run(*arguments, exit_code=2).stderr.lower()

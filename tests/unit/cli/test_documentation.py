"""``docs/commands`` says of each command what it does, and of each finding what it means."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ecr_secrets_backend.cli import COMMANDS, check
from ecr_secrets_backend.cli.status import STATES

PAGES = {page.stem: page.read_text() for page in (Path(__file__).parents[3] / "docs/commands").glob("*.md")}
MODULES = list(Path(check.__file__).parent.glob("*.py"))


def hyphened(path: Path) -> set[str]:
    """Find the texts of a module that have the form of a finding's code."""
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z]+)+", text)}


def test_every_code_of_a_finding_is_told() -> None:
    """And none that there is not."""
    _, _, table = PAGES["check"].partition("| code |")
    told = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", table))))
    found = set().union(*map(hyphened, MODULES))

    assert told == found


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_and_option_is_told(name: str) -> None:
    """Each on its page."""
    (command,) = [command for command in COMMANDS if command.name == name]

    for argument in command.arguments:
        flag = argument.options.get("metavar") if not argument.flags[0].startswith("-") else argument.flags[0]
        assert f"{flag}" in PAGES[name] + PAGES["index"]


def test_every_state_of_a_token_is_told() -> None:
    """With what it means."""
    assert set(re.findall(r"(?m)^\| `(\w+)` \| .* \|$", PAGES["status"])) == STATES.keys()

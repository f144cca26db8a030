"""``docs/commands`` says of each command what it does, and of each finding what it means."""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli import COMMANDS, check
from ecr_secrets_backend.cli.status import STATES
from tests.command_settings import US_HOST
from tests.unit.cli.conftest import DENIED, Run, status

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

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


def documented(command: str) -> Any:
    """Read the document on the page of a command."""
    (document,) = re.findall(r"```json\n(.*?)```", PAGES[command], re.DOTALL)
    return json.loads(document)


def test_the_document_of_check_is_what_it_prints(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, but for the time that it took."""
    (tmp_path / "kwargs.json").write_text(json.dumps({"connections": {"docker_default": US_HOST}}))
    monkeypatch.chdir(tmp_path)
    command = ("check", "--image", "app:1", "--backend-kwargs", "kwargs.json", "--output", "json")
    printed = json.loads(run(*command, exit_code=1).stdout)
    written = documented("check")

    for finding in (*printed["findings"], *written["findings"]):
        assert finding.pop("seconds") >= 0
    assert printed == written


def test_the_document_of_status_has_the_fields_that_it_prints(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """Each field is there, and of the same type."""
    run("token", "docker_default", *file)
    aws.script(DENIED)
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)):
        while not any(token["failure"] for token in status(run, *file)["tokens"]):
            run("token", "docker_default", *file)  # which ends before a renewal that takes more than a second
        printed = status(run, *file)

    assert shape(printed) == shape(documented("status"))


def shape(value: Any) -> Any:
    """Give a document's fields and types in place of its values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)

"""``docs/commands`` describes each command, option, state and code of a finding."""

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
    from ecr_secrets_backend.cli.command import Command
    from tests.stand_ins.aws import AwsStandIn

PAGES = {page.stem: page.read_text() for page in (Path(__file__).parents[3] / "docs/commands").glob("*.md")}


def codes_in(path: Path) -> set[str]:
    """Return the strings of a module that have the form of a finding's code."""
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z]+)+", text)}


def test_the_page_lists_the_codes_of_findings() -> None:
    _, _, table = PAGES["check"].partition("| code |")
    documented = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", table))))

    assert documented == set().union(*map(codes_in, Path(check.__file__).parent.glob("*.py")))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_page_describes_each_argument(command: Command) -> None:
    for (flag, *_), options in command.arguments:
        assert (flag if flag.startswith("-") else options["metavar"]) in PAGES[command.name] + PAGES["index"]


def test_the_page_lists_the_states_of_a_token() -> None:
    assert set(re.findall(r"(?m)^\| `(\w+)` \| .* \|$", PAGES["status"])) == STATES.keys()


def read_example(command: str) -> Any:
    (document,) = re.findall(r"```json\n(.*?)```", PAGES[command], re.DOTALL)
    return json.loads(document)


def test_check_prints_the_document_of_its_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kwargs.json").write_text(json.dumps({"connections": {"docker_default": US_HOST}}))
    monkeypatch.chdir(tmp_path)
    command = ("check", "--image", "app:1", "--backend-kwargs", "kwargs.json", "--output", "json")
    printed, documented = json.loads(run(*command, exit_code=1).stdout), read_example("check")

    for finding in (*printed["findings"], *documented["findings"]):
        assert finding.pop("seconds") >= 0
    assert printed == documented


def test_status_prints_the_fields_of_its_page(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    run("token", "docker_default", *file)
    aws.script(DENIED)
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)):
        while not any(token["failure"] for token in status(run, *file)["tokens"]):
            run("token", "docker_default", *file)  # it may end before the renewal does
        printed = status(run, *file)

    assert types(printed) == types(read_example("status"))


def types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: types(each) for key, each in value.items()}
    return [types(each) for each in value] if isinstance(value, list) else type(value)

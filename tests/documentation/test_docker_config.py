"""The examples for `docker-config` have valid commands and kwargs."""

from __future__ import annotations

import json
import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend.cli import build_parser
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import PROJECT

FOLDER = PROJECT / "examples/docker_config"
UNIT = ConfigParser(interpolation=None)
UNIT.read(FOLDER / "ecr-docker-config.service")
SERVICE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["ecr-login"]
MANIFESTS = {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
COMMANDS = {
    "systemd": shlex.split(UNIT["Service"]["ExecStart"]),
    "compose": SERVICE["command"],
    "kubernetes": MANIFESTS["Pod"]["spec"]["initContainers"][0]["command"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_valid(name: str) -> None:
    """It watches, and reads its kwargs from a file."""
    program, *arguments = COMMANDS[name]
    options = build_parser().parse_args(arguments)

    assert (Path(program).name, options.command.name) == ("ecr-secrets-backend", "docker-config")
    assert (options.watch, bool(options.backend_kwargs)) == (True, True)


@pytest.mark.parametrize("text", [(FOLDER / "kwargs.json").read_text(), MANIFESTS["ConfigMap"]["data"]["kwargs.json"]])
def test_the_kwargs_are_valid(text: str) -> None:
    assert "docker_default" in Settings.parse(json.loads(text)).connections


def test_systemd_waits_for_the_logins() -> None:
    """The command notifies systemd when it has written them."""
    assert UNIT["Service"]["Type"] == "notify"


def test_no_service_mounts_the_file_alone() -> None:
    """A mounted file cannot be replaced."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"].values()

    assert [volume for service in services for volume in service["volumes"] if "config.json" in volume] == []

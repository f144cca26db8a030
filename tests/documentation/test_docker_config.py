"""The examples for `docker-config` have valid commands and kwargs."""

from __future__ import annotations

import configparser
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend.cli import build_parser
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import PROJECT

FOLDER = PROJECT / "examples/docker_config"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FOLDER / "ecr-docker-config.service")
    return parser


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["ecr-login"]
    return found


def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}


COMMANDS = {
    "systemd": shlex.split(unit()["Service"]["ExecStart"]),
    "compose": service()["command"],
    "kubernetes": manifests()["Pod"]["spec"]["initContainers"][0]["command"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_valid(name: str) -> None:
    """It watches, and reads its kwargs from a file."""
    program, *arguments = COMMANDS[name]
    options = build_parser().parse_args(arguments)

    assert Path(program).name == "ecr-secrets-backend"
    assert options.command.name == "docker-config"
    assert options.watch
    assert options.backend_kwargs


@pytest.mark.parametrize(
    "text", [(FOLDER / "kwargs.json").read_text(), manifests()["ConfigMap"]["data"]["kwargs.json"]]
)
def test_the_kwargs_are_valid(text: str) -> None:
    assert "docker_default" in Settings.parse(json.loads(text)).connections


def test_systemd_waits_for_the_logins() -> None:
    """The command notifies systemd when it has written them."""
    assert unit()["Service"]["Type"] == "notify"


def test_no_example_mounts_the_file_alone() -> None:
    """A mounted file cannot be replaced."""
    assert not [volume for volume in service()["volumes"] if "config.json" in volume]

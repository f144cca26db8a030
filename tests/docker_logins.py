"""Docker's configuration, and the logins that Docker finds in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.command_settings import build_kwargs, write_kwargs

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

Arguments = tuple[str | Path, ...]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "docker/config.json"


@pytest.fixture
def arguments(aws: AwsStandIn, config: Path, tmp_path: Path) -> Arguments:
    """For two connections, with a cache and a Docker folder of the test's own."""
    del aws
    return "docker-config", "--config", config.parent, *write_kwargs(tmp_path, build_kwargs(tmp_path))


def write(config: Path, content: object) -> None:
    """Write a file in a new folder, as Docker does."""
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(content, indent="\t", ensure_ascii=False))


def passwords(config: Path) -> dict[str, str]:
    """Read the passwords that Docker finds in a file, by host."""
    return passwords_in(config.read_text())


def passwords_in(text: str) -> dict[str, str]:
    logins = {host: base64.b64decode(entry["auth"]).decode() for host, entry in json.loads(text)["auths"].items()}
    return {host: login.removeprefix("AWS:") for host, login in logins.items()}

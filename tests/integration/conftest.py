from __future__ import annotations

import secrets
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.process_helpers import Processes
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def aws(aws_server: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStandIn]:
    """The stand-in, as new, with an environment that leads there; each test is an identity of its own."""
    aws_server.reset()
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + secrets.token_hex(8).upper())
    yield aws_server
    aws_server.reset()  # what another module's fixtures ask of it does not meet the faults of this test


@pytest.fixture(scope="session")
def processes(aws_server: AwsStandIn) -> Iterator[Processes]:
    """Whoever else lives on this host, each with a first token."""
    with Processes.running(aws_server.environment()) as processes:
        yield processes


@pytest.fixture
def default_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of the host's cache without ``cache_dir``, for every user; it comes before the machine's own."""
    with TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield folder


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder where every user may leave things, and remove their own: what /dev/shm and /tmp are."""
    with TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder

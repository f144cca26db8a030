from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.process_helpers import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def aws(loopback_aws: AwsStandIn) -> AwsStandIn:
    return loopback_aws


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

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.command_settings import build_kwargs, write_kwargs
from tests.process_helpers import Host, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def aws(loopback_aws: AwsStandIn) -> AwsStandIn:
    return loopback_aws


@pytest.fixture(scope="session")
def processes(aws_server: AwsStandIn) -> Iterator[Processes]:
    """Processes of this host, forked from one that has received a token already."""
    with Processes.running(aws_server.environment()) as processes:
        yield processes


@pytest.fixture
def default_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The first default place of the cache, for all users; it comes before those of the machine."""
    with TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield folder


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder like /dev/shm and /tmp: all users may write to it, and remove their own files."""
    with TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


@pytest.fixture
def host(aws: AwsStandIn, processes: Processes, tmp_path: Path) -> Host:
    """The processes of this user, with an empty cache."""
    return Host(aws, processes, tmp_path / "cache")


@pytest.fixture
def file(aws: AwsStandIn, tmp_path: Path) -> tuple[str, str]:
    """Return the options of a command with kwargs for two connections."""
    del aws
    return write_kwargs(tmp_path, build_kwargs(tmp_path))

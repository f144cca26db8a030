"""``docker-config --watch`` as a process: signals, and tokens that expire."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_settings import configure_airflow
from tests.docker_logins import arguments, config, passwords, write
from tests.integration.commands import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.stand_ins.aws import AwsStandIn

__all__ = ["arguments", "config"]


def wait(check: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until a check passes; fail if the process has ended before."""
    while not check():
        assert process.poll() is None, "the command has ended"
        time.sleep(0.02)


@contextmanager
def watching(*arguments: str | Path, stderr: Any = None) -> Iterator[subprocess.Popen[str]]:
    """Start a command with ``--watch`` that ends with the block."""
    with subprocess.Popen([*COMMAND, *arguments, "--watch"], stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal, after which the command ends within a second with exit code 0."""
    process.send_signal(number)
    assert process.wait(1) == 0


#: A secrets backend that cannot be interrupted, like a library that catches all exceptions.
STUBBORN = """
import pathlib, time
from airflow.secrets import BaseSecretsBackend

class Stubborn(BaseSecretsBackend):
    def __init__(self, marker):
        pathlib.Path(marker).touch()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""
#: Makes each write take a moment.
SLOW_DISK = """
import os, pathlib, time
sync = os.fsync
def slow_sync(descriptor):
    sync(descriptor)
    pathlib.Path(os.environ["MARKER"]).touch()
    time.sleep(0.3)
os.fsync = slow_sync
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists when the command has reached the moment for the signal."""
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "marker"


def test_a_signal_ends_the_command_while_airflow_is_imported(
    marker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Airflow's import runs code that catches all exceptions."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    configure_airflow(monkeypatch, tmp_path, {"marker": str(marker)})
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "stubborn.Stubborn")
    with watching("docker-config", "--config", tmp_path) as process:
        wait(marker.exists, process)
        end(process, signal.SIGTERM)


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_a_signal_ends_the_command_after_the_end_of_a_write(
    arguments: Arguments, config: Path, marker: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The file is whole, and no other file is left."""
    write(config, {})
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    with watching(*arguments, *options) as process:
        wait(marker.exists, process)
        end(process, signal.SIGTERM)

    assert [file.name for file in config.parent.iterdir()] == ["config.json"]
    assert len(passwords(config)) == 2


@pytest.mark.parametrize(("address", "number"), [("{}", signal.SIGTERM), ("\0{}", signal.SIGINT)])
def test_a_signal_ends_the_command_while_it_sleeps(
    arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch, address: str, number: int
) -> None:
    """The logins stay. The command notifies systemd that they are there, and that it ends."""
    with TemporaryDirectory() as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.format(f"{name}/notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", address.format(f"{name}/notify").replace("\0", "@"))
        with watching(*arguments) as process:
            assert systemd.recv(512) == b"READY=1"
            end(process, number)
        assert systemd.recv(512) == b"STOPPING=1"

    assert len(passwords(config)) == 2


def test_a_reader_never_finds_an_expired_or_half_written_login(
    aws: AwsStandIn, arguments: Arguments, config: Path, tmp_path: Path
) -> None:
    """While tokens of four seconds expire: each is renewed before, with one line."""
    aws.set(token_lifetime=4)
    seen: set[str] = set()
    log = tmp_path / "log"
    with log.open("w") as stderr, watching(*arguments, stderr=stderr) as process:
        wait(config.exists, process)
        while len(seen) < 6:
            for host, password in passwords(config).items():
                assert aws.authorise("AWS", password, region=host.split(".")[3]).valid
                seen.add(password)
        wait(lambda: log.read_text().count("\n") >= 6, process)

    assert len(aws.calls(operation="GetAuthorizationToken")) <= 8  # the next renewals may have begun
    assert all("Logged in to" in line for line in log.read_text().splitlines())

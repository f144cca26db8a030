"""``docker-config`` as a process: other users of the host, mounts, signals, and tokens that expire."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins
from tests.command_settings import US_HOST, configure_airflow
from tests.docker_logins import arguments, config, passwords, write
from tests.integration.commands import COMMAND, run
from tests.requirements import need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

__all__ = ["arguments", "config"]

OTHER_USER = 54322
LOGIN = {US_HOST: "YTpi"}
SECRET = "what-is-root-s-alone"


@pytest.fixture
def _root() -> None:
    need_root()


def wait(check: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a check passes; fail if the process has ended before."""
    while not check():
        assert process is None or process.poll() is None, "the command has ended"
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


@pytest.mark.usefixtures("_root")
class TestRoot:
    """Root may write for another user, and that user may have prepared the folder."""

    @pytest.mark.parametrize("owned", ["folder and file", "file"])
    def test_the_new_file_belongs_to_the_user(self, config: Path, owned: str) -> None:
        """In a container, a file that is mounted alone may belong to a user of the host."""
        write(config, {})
        for path in (config, config.parent)[: 1 + owned.startswith("folder")]:
            os.chown(path, OTHER_USER, OTHER_USER + 1)
        change_logins(config.parent, LOGIN, {})

        assert (config.stat().st_uid, config.stat().st_gid) == (OTHER_USER, OTHER_USER + 1)
        assert passwords(config)

    @pytest.mark.parametrize("link", ["docker", "docker/config.json", "new"])
    @pytest.mark.parametrize("owned", ["link", "folder"])
    def test_a_link_of_another_user_is_refused(self, tmp_path: Path, link: str, owned: str) -> None:
        """It may lead to a file of root's; a user may also move a link of root's into an own folder."""
        home, own = tmp_path / "home", tmp_path / "own"
        write(own / "docker/config.json", {})
        (home / link).parent.mkdir(parents=True)
        (home / link).symlink_to(own / link if link != "new" else own)
        os.lchown(home / link if owned == "link" else (home / link).parent, OTHER_USER, OTHER_USER)
        with pytest.raises(CommandError, match="is a link that another user controls") as raised:
            change_logins(home / ("new/folder" if link == "new" else "docker"), LOGIN, {})

        assert raised.value.exit_code == 1
        assert [path.name for path in own.iterdir()] == ["docker"]
        assert (own / "docker/config.json").read_text() == "{}"

    @pytest.mark.parametrize("kind", ["hard link to root's file", "file in a folder like /tmp"])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_a_file_of_another_user_than_its_folder_is_refused(
        self, config: Path, kind: str, *, in_place: bool
    ) -> None:
        """If the other user could make it: the kernel may let a user make a hard link to root's file."""
        write(config, {})
        if kind.startswith("hard link"):
            os.chown(config.parent, OTHER_USER, OTHER_USER)
        else:
            config.parent.chmod(0o1777)
            os.chown(config, OTHER_USER, OTHER_USER)
        with pytest.raises(CommandError, match="belongs to another user than its folder"):
            change_logins(config.parent, LOGIN, {}, in_place=in_place)

        assert config.read_text() == "{}"

    @pytest.mark.parametrize("in_place", [False, True])
    def test_a_user_that_swaps_the_file_reads_and_changes_nothing_of_root_s(
        self, processes: Processes, shared_folder: Path, *, in_place: bool
    ) -> None:
        """Root neither reads nor writes a file of its own through a link that appears at any moment."""
        secret, folder = shared_folder / "root.json", shared_folder / "docker"
        secret.write_text(json.dumps({"auths": {"ghcr.io": {"auth": SECRET}}}))
        secret.chmod(0o600)
        before = secret.read_text()
        folder.mkdir()
        os.chown(folder, OTHER_USER, OTHER_USER)
        with processes.start(swap_for_ever, folder, secret, user=OTHER_USER):
            wait((folder / "config.json").is_fifo)
            written = 0
            while written < 50:
                with suppress(CommandError):
                    written += len(change_logins(folder, {US_HOST: str(written)}, {}, in_place=in_place))
                with suppress(CommandError):
                    assert "ghcr.io" not in DockerConfig.load(folder).auths

        assert secret.read_text() == before
        assert not (folder / "stolen").exists()


def swap_for_ever(folder: Path, secret: Path) -> None:
    """Replace links to root's file, pipes and files with each other, and report a secret that appears."""
    new = folder / "new"
    while True:
        for make in (lambda: new.symlink_to(secret), lambda: os.mkfifo(new), lambda: new.write_text("{}")):
            with suppress(OSError):
                make()
                new.replace(folder / "config.json")
            with suppress(OSError):
                descriptor = os.open(folder / "config.json", os.O_RDONLY | os.O_NONBLOCK)
                if SECRET.encode() in os.read(descriptor, 65536):
                    (folder / "stolen").touch()
                os.close(descriptor)


@pytest.mark.usefixtures("_root")
class TestMounts:
    def test_a_file_that_is_mounted_alone_is_written_in_place(
        self, arguments: Arguments, config: Path, tmp_path: Path
    ) -> None:
        """With --in-place. Without it, the message names the option and the folder."""
        write(config, {})
        mounted = tmp_path / "mounted.json"
        mounted.write_text("{}")
        shell = ("unshare", "--mount", "sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", mounted, config)
        command = [*shell, *COMMAND, *arguments]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        subprocess.run([*command, "--in-place"], check=True)

        assert refused.returncode == 1
        assert "Mount the folder instead of the file, or use --in-place" in refused.stderr
        assert config.read_text() == "{}"
        assert len(passwords(mounted)) == 2

    def test_a_reader_that_has_mounted_the_file_alone_is_reported(
        self, arguments: Arguments, config: Path, tmp_path: Path
    ) -> None:
        """Such a container keeps the old login for ever. It is also reported after the file was replaced."""
        write(config, {})
        (tmp_path / "mounted.json").touch()
        script = 'mount --bind "$1" "$2"; echo ready; cat'
        reader = ("unshare", "--mount", "sh", "-ec", script, "sh", config, tmp_path / "mounted.json")
        assert "another link or mount" not in run(*arguments, "docker_default").stderr
        with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            done = [run(*arguments), run(*arguments)]
            process.communicate()

        for each in done:
            assert "has another link or mount, where the old login stays. Mount the folder" in each.stderr


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

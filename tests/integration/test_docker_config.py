"""``docker-config`` as a process, on real files, in good and bad weather."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins
from tests.command_settings import EU_HOST, US_HOST, build_kwargs, write_kwargs
from tests.docker_logins import OTHERS, passwords, write
from tests.integration.commands import COMMAND, Watch, run, wait
from tests.requirements import need_root
from tests.stand_ins.aws import Error, Hang

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

OUTAGE = Error("ServiceUnavailable", status=503)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docker"


@pytest.fixture
def config(folder: Path) -> Path:
    return folder / "config.json"


@pytest.fixture
def arguments(aws: AwsStandIn, folder: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """For both connections, with a cache and a Docker folder of the test's own."""
    del aws
    return "docker-config", "--config", folder, *write_kwargs(tmp_path, build_kwargs(tmp_path))


class TestOnce:
    def test_the_owner_is_kept(self, arguments: tuple[str | Path, ...], config: Path) -> None:
        """Root may write for another user, which then owns all that is new."""
        need_root()
        write(config, {})
        os.chown(config, 4321, 4322)
        os.chown(config.parent, 4321, 4322)
        run(*arguments)

        assert {(file.stat().st_uid, file.stat().st_gid) for file in config.parent.iterdir()} == {(4321, 4322)}

    def test_a_link_of_another_user_is_refused(
        self, arguments: tuple[str | Path, ...], config: Path, tmp_path: Path
    ) -> None:
        """It might lead root to a file that the other may not write."""
        need_root()
        config.parent.mkdir()
        (tmp_path / "precious").write_text("{}")
        config.symlink_to(tmp_path / "precious")
        os.lchown(config, 4321, 4322)
        done = run(*arguments, exit_code=1)

        assert "belongs to another user" in done.stderr
        assert (tmp_path / "precious").read_text() == "{}"

    @pytest.mark.parametrize("linked", ["docker", "docker/config.json"])
    def test_a_link_in_another_user_s_folder_is_refused(
        self, arguments: tuple[str | Path, ...], tmp_path: Path, linked: str
    ) -> None:
        """Also one that looks like root's own: it may lead root, which writes for that user, to its own logins."""
        need_root()
        home, own = tmp_path / "home", tmp_path / "own/docker"
        own.mkdir(parents=True)
        (own / "config.json").write_text("{}")
        (home / linked).parent.mkdir(parents=True)
        (home / linked).symlink_to(own.parent / linked)
        for folder in (home, (home / linked).parent):
            os.chown(folder, 4321, 4322)
        done = run(*arguments, "--config", home / "docker", exit_code=1)

        assert "belongs to another user" in done.stderr
        assert (own / "config.json").read_text() == "{}"

    def test_no_folder_is_made_behind_a_link_of_another_user(
        self, arguments: tuple[str | Path, ...], tmp_path: Path
    ) -> None:
        """It would be root's, in a place that the other user has chosen."""
        need_root()
        (tmp_path / "own").mkdir()
        (tmp_path / "link").symlink_to("own")
        os.lchown(tmp_path / "link", 4321, 4322)
        done = run(*arguments, "--config", tmp_path / "link/new/docker", exit_code=1)

        assert "belongs to another user" in done.stderr
        assert list((tmp_path / "own").iterdir()) == []

    @pytest.mark.parametrize("mode", [0o1777, 0o755])
    def test_a_file_of_another_user_in_root_s_folder_is_refused_if_that_user_could_make_it(
        self, arguments: tuple[str | Path, ...], config: Path, mode: int
    ) -> None:
        """As in /tmp; a file that is mounted alone may belong to a user of the host."""
        need_root()
        write(config, {})
        config.parent.chmod(mode)
        os.chown(config, 4321, 4322)
        done = run(*arguments, exit_code=2 if mode == 0o1777 else 0)

        assert ("belongs to another user than its folder" in done.stderr) == (mode == 0o1777)
        assert (json.loads(config.read_text()) == {}) == (mode == 0o1777)

    def test_another_name_of_root_s_file_is_refused(
        self, arguments: tuple[str | Path, ...], config: Path, tmp_path: Path
    ) -> None:
        """In another user's folder, where the kernel may let that user make one."""
        need_root()
        config.parent.mkdir()
        os.chown(config.parent, 4321, 4322)
        (tmp_path / "own.json").write_text("{}")
        config.hardlink_to(tmp_path / "own.json")
        for options in ((), ("--in-place",)):
            done = run(*arguments, *options, exit_code=2)
            assert "belongs to another user than its folder" in done.stderr

        assert (tmp_path / "own.json").read_text() == "{}"

    def test_a_lock_that_is_held_is_waited_for_and_not_for_ever(
        self, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """A copy that was stopped does not stop all others."""
        write(config, {})
        held = os.open(config.parent, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(*arguments, exit_code=1)
        os.close(held)

        assert "is held by another process" in done.stderr
        assert json.loads(config.read_text()) == {}

    def test_many_copies_at_once_lose_nothing(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """Each writes its own registry into the one file; all are there in the end, beside what was there."""
        write(config, OTHERS)
        for _ in range(3):
            connections = [f"docker_{name}" for name in ("default", "eu")] * 3
            copies = [subprocess.Popen([*COMMAND, *arguments, name], stderr=subprocess.PIPE) for name in connections]
            for copy in copies:
                _, complaint = copy.communicate(timeout=50)
                assert copy.returncode == 0, complaint
            found = json.loads(config.read_text())
            assert found["auths"].keys() == {*OTHERS["auths"], US_HOST, EU_HOST}
            run("clear", *arguments[-2:])
        assert len(aws.calls()) == 6

    def test_a_run_after_an_earlier_one_forgets_what_has_expired_since(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """A service may restart while AWS fails; a login that another program has written stays."""
        aws.set(token_lifetime=2)
        run(*arguments)
        other = {"auth": "QVdTOm90aGVy"}
        content = json.loads(config.read_text())
        config.write_text(json.dumps({"auths": {**content["auths"], EU_HOST: other}}))
        us_password = passwords(config)[US_HOST]
        wait(lambda: not aws.authorise("AWS", us_password).valid)
        aws.script(OUTAGE)
        done = run(*arguments, exit_code=1)

        assert f"Removed the login for {US_HOST}" in done.stderr
        assert json.loads(config.read_text())["auths"] == {EU_HOST: other}

    def test_a_file_that_is_mounted_by_itself_is_written_in_place(
        self, arguments: tuple[str | Path, ...], config: Path, tmp_path: Path
    ) -> None:
        """If that is asked for; it cannot be replaced, and the message names both."""
        need_root()
        write(config, {})
        mounted = tmp_path / "mounted.json"
        mounted.write_text("{}")
        shell = ("unshare", "--mount", "sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", mounted, config)
        command = [*shell, *COMMAND, *arguments]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        subprocess.run([*command, "--in-place"], check=True)

        assert refused.returncode == 1
        assert "Mount the folder" in refused.stderr
        assert "--in-place" in refused.stderr
        assert config.read_text() == "{}"
        assert len(passwords(mounted)) == 2

    def test_a_reader_that_has_mounted_the_file_alone_is_warned_of(
        self, arguments: tuple[str | Path, ...], config: Path, tmp_path: Path
    ) -> None:
        """As a container does, which keeps the old login for ever; also after the file was replaced."""
        need_root()
        write(config, {})
        (tmp_path / "mounted.json").touch()
        script = 'mount --bind "$1" "$2"; echo ready; cat'
        reader = ("unshare", "--mount", "sh", "-ec", script, "sh", config, tmp_path / "mounted.json")
        assert "another link or mount" not in run(*arguments, "docker_default").stderr
        with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            first = run(*arguments)
            second = run(*arguments)
            process.communicate()

        for done in (first, second):
            assert (
                "another link or mount, where the old login stays: mount its folder, or use --in-place" in done.stderr
            )


SECRET = "what-is-root-s-alone"


def swap_for_ever(folder: Path, secret: Path) -> None:
    """Put links to root's own file, pipes and files into each other's place, and keep what is found there."""
    while True:
        for name in ("link", "pipe", "file"):
            new = folder / name
            with suppress(OSError):
                if name == "link":
                    new.symlink_to(secret)
                elif name == "pipe":
                    os.mkfifo(new)
                else:
                    new.write_text("{}")
                new.replace(folder / "config.json")
            with suppress(OSError):
                descriptor = os.open(folder / "config.json", os.O_RDONLY | os.O_NONBLOCK)
                if SECRET.encode() in os.read(descriptor, 65536):
                    (folder / "stolen").touch()
                os.close(descriptor)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_user_who_swaps_the_file_gets_nothing_of_root_s(processes: Processes, *, in_place: bool) -> None:
    """Root writes for a user that puts a link to root's file there at any moment: it is not read, and not written."""
    need_root()
    with TemporaryDirectory(dir="/tmp") as name:
        home, secret, folder = Path(name), Path(name) / "root.json", Path(name) / "docker"
        home.chmod(0o755)
        secret.write_text(json.dumps({"auths": {"ghcr.io": {"auth": SECRET}}}))
        secret.chmod(0o600)
        before = secret.read_text()
        folder.mkdir()
        os.chown(folder, 54322, 54322)
        written = 0
        with processes.start(swap_for_ever, folder, secret, user=54322):
            ends_at = time.monotonic() + 4
            while time.monotonic() < ends_at:
                with suppress(CommandError):
                    written += len(change_logins(folder, {US_HOST: str(written)}, {}, in_place=in_place))
                with suppress(CommandError):
                    assert "ghcr.io" not in DockerConfig.load(folder).auths

        assert written
        assert secret.read_text() == before
        assert not (folder / "stolen").exists()


#: A secrets backend that cannot be interrupted, as one in which a library catches all exceptions.
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
#: Makes each write last for a while.
SLOW_DISK = """
import os, pathlib, time
sync = os.fsync
def slow_sync(descriptor):
    sync(descriptor)
    pathlib.Path(os.environ["MARKER"]).touch()
    time.sleep(0.3)
os.fsync = slow_sync
"""


class TestWatch:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_while_airflow_is_imported(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
    ) -> None:
        """Though what Airflow imports there catches all exceptions."""
        (tmp_path / "stubborn.py").write_text(STUBBORN)
        marker = tmp_path / "marker"
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "stubborn.Stubborn")
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps({"marker": str(marker)}))
        with notified() as states, Watch.running("docker-config", "--watch", "--config", tmp_path) as watch:
            wait(marker.exists, watch.process)
            assert watch.end(number) < 1
            assert watch.process.returncode == 0
            wait(lambda: states == ["STOPPING=1"])

    def test_a_signal_ends_it_while_a_source_of_credentials_runs(
        self, arguments: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Such a program may wait for a person."""
        marker = tmp_path / "marker"
        (tmp_path / "aws").write_text(f"[default]\ncredential_process = sh -c 'touch {marker}; exec sleep 5'\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with Watch.running(*arguments, "--watch") as watch:
            wait(marker.exists, watch.process)
            watch.process.send_signal(signal.SIGTERM)
            assert watch.process.wait(1) == 0

    @pytest.mark.parametrize("options", [(), ("--in-place",)])
    def test_a_signal_waits_for_the_end_of_a_write(
        self,
        arguments: tuple[str | Path, ...],
        config: Path,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        options: tuple[str, ...],
    ) -> None:
        """It leaves a whole file, and nothing beside it."""
        write(config, {})
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(SLOW_DISK)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
        with Watch.running(*arguments, "--watch", *options) as watch:
            wait((tmp_path / "marker").exists, watch.process)
            assert watch.end(signal.SIGTERM) < 1
            assert watch.process.returncode == 0

        assert [file.name for file in config.parent.iterdir()] == ["config.json"]
        assert len(passwords(config)) == 2

    @pytest.mark.timeout(90)
    def test_a_reader_never_finds_an_expired_or_half_written_login(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """While tokens of ten seconds come and go for twenty-five; each is renewed in its own time, with one line."""
        aws.set(token_lifetime=10)
        seen: set[str] = set()
        with Watch.running(*arguments, "--watch") as watch:
            wait(config.exists, watch.process)
            ends_at = time.monotonic() + 25
            while time.monotonic() < ends_at:
                for host, password in passwords(config).items():
                    assert aws.authorise("AWS", password, region=host.split(".")[3]).valid
                    seen.add(password)
            calls = len(aws.calls(operation="GetAuthorizationToken"))
            assert watch.process.poll() is None

        assert 8 <= calls <= 14
        assert len(seen) == calls
        assert sum("Logged in to" in line for line in watch.lines) == calls
        assert [line for line in watch.lines if "Logged in to" not in line] == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_at_once(self, arguments: tuple[str | Path, ...], config: Path, number: int) -> None:
        """While it sleeps; the login stays."""
        with Watch.running(*arguments, "--watch") as watch:
            watch.wait_for(EU_HOST)
            assert watch.end(number) < 1
            assert watch.process.returncode == 0

        assert passwords(config)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_while_aws_hangs(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path, number: int
    ) -> None:
        """It does not wait for AWS's timeouts."""
        aws.script(Hang(30))
        with Watch.running(*arguments, "--watch") as watch:
            wait(lambda: aws.calls(operation="GetAuthorizationToken"), watch.process)
            assert watch.end(number) < 1
            assert watch.process.returncode == 0

        assert not config.exists()

    @pytest.mark.timeout(120)
    def test_an_outage_is_survived(self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path) -> None:
        """A valid token stays, an expired one goes, and when AWS is back so is the login."""
        aws.set(token_lifetime=10)
        with Watch.running(*arguments, "docker_eu", "--watch") as watch:
            watch.wait_for("Logged in")
            (first,) = passwords(config).values()
            aws.script(OUTAGE)
            watch.wait_for("An ECR token was not renewed")
            assert passwords(config) == {EU_HOST: first}
            watch.wait_for("Removed the login")
            assert aws.authorise("AWS", first).valid  # the last moments of a token are not used
            assert passwords(config) == {}
            aws.settle()
            wait(lambda: passwords(config), watch.process)

            (second,) = passwords(config).values()
            assert aws.authorise("AWS", second).valid

    def test_an_outage_at_the_start_is_survived(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """A host may be up before its network."""
        aws.set(token_lifetime=10)
        aws.script(OUTAGE)
        with notified() as states, Watch.running(*arguments, "docker_eu", "--watch") as watch:
            watch.wait_for("has no ECR token")
            assert states == []
            aws.settle()
            wait(lambda: "READY=1" in states, watch.process)

        assert passwords(config)

    @pytest.mark.parametrize("kind", ["path", "abstract"])
    def test_systemd_is_notified(self, arguments: tuple[str | Path, ...], config: Path, kind: str) -> None:
        """Of the readiness once the logins are there, and of the end."""
        with notified(is_abstract=kind == "abstract") as states:
            with Watch.running(*arguments, "--watch") as watch:
                wait(lambda: states, watch.process)
                assert len(passwords(config)) == 2
                watch.end(signal.SIGTERM)
            wait(lambda: len(states) == 2)

        assert states == ["READY=1", "STOPPING=1"]

    def test_a_fault_of_the_configuration_ends_it_at_the_start(
        self, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """A service manager shows it."""
        config.parent.mkdir()
        config.write_text("{")
        run(*arguments, "--watch", exit_code=2)

    def test_a_login_that_is_removed_comes_back(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path
    ) -> None:
        """As after ``docker logout``; what they have added stays."""
        aws.set(token_lifetime=10)
        with Watch.running(*arguments, "docker_eu", "--watch") as watch:
            watch.wait_for("Logged in")
            config.write_text(json.dumps({"auths": {"ghcr.io": {"auth": "dXNlcjpwYXNz"}}}))
            wait(lambda: EU_HOST in passwords(config), watch.process)

        assert "ghcr.io" in passwords(config)

    def test_a_file_that_is_broken_meanwhile_is_left_until_it_is_corrected(
        self, aws: AwsStandIn, arguments: tuple[str | Path, ...], config: Path, tmp_path: Path
    ) -> None:
        """Another program may be at work on it."""
        aws.set(token_lifetime=4)
        with Watch.running(*arguments, "docker_eu", "--watch") as watch:
            watch.wait_for("Logged in")
            broken = tmp_path / "broken"
            broken.write_text("{")
            broken.replace(config)
            watch.wait_for("left as it was")
            assert config.read_text() == "{"
            config.write_text("{}")
            wait(lambda: EU_HOST in passwords_if_whole(config), watch.process)

    def test_no_secret_is_logged(self, aws: AwsStandIn, arguments: tuple[str | Path, ...]) -> None:
        """In good weather and in bad."""
        aws.set(token_lifetime=4)
        with Watch.running(*arguments, "--watch") as watch:
            watch.wait_for("Logged in")
            aws.script(OUTAGE)
            watch.wait_for("Removed the login")

        assert [secret for secret in aws.secrets() if secret in "".join(watch.lines)] == []


def passwords_if_whole(config: Path) -> dict[str, str]:
    try:
        return passwords(config)
    except (ValueError, KeyError):
        return {}


@contextmanager
def notified(*, is_abstract: bool = False) -> Iterator[list[str]]:
    """Listen as systemd does, and collect what is reported."""
    states: list[str] = []
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"{folder}/notify"
        address = f"\0{name}" if is_abstract else name
        systemd.bind(address)

        def listen() -> None:
            while state := systemd.recv(512).decode():
                states.append(state)

        thread = threading.Thread(target=listen)
        thread.start()
        os.environ["NOTIFY_SOCKET"] = f"@{name}" if is_abstract else name
        try:
            yield states
        finally:
            del os.environ["NOTIFY_SOCKET"]
            systemd.sendto(b"", address)
            thread.join()

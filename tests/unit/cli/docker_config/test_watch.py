from __future__ import annotations

import json
import signal
import socket
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Protocol

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli import docker_config
from tests.command_settings import EU_HOST
from tests.docker_logins import passwords
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run

OUTAGE = Error("ServiceUnavailable", status=503)


Step = tuple[float, tuple["Callable[[], object]", ...]]


def until(hours: float, *work: Callable[[], object]) -> Step:
    """Work while the command sleeps, until so many hours after its start."""
    return hours, work


class Watch(Protocol):
    def __call__(self, *steps: Step, exit_code: int = 130) -> tuple[str, list[float]]: ...


@pytest.fixture
def watch(run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Run the command for one connection until the steps end; return its log, and the seconds of each sleep."""
    monkeypatch.setattr(docker_config, "_end_on_signals", lambda: None)

    def watch(*steps: Step, exit_code: int = 130) -> tuple[str, list[float]]:
        start, left, sleeps = datetime.now(timezone.utc), iter(steps), list[float]()
        with freeze_time(start) as clock:

            def sleep(seconds: float) -> None:
                sleeps.append(seconds)
                for hours, work in left:
                    for each in work:
                        each()
                    clock.move_to(start + timedelta(hours=hours))
                    return
                raise KeyboardInterrupt

            monkeypatch.setattr(docker_config, "time", type("Time", (), {"sleep": sleep}))
            return run(*arguments, "docker_eu", "--watch", exit_code=exit_code).stderr, sleeps

    return watch


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield systemd


def states_of(systemd: socket.socket) -> list[str]:
    states: list[str] = []
    with suppress(BlockingIOError):
        while True:
            states.append(systemd.recv(512).decode())
    return states


def test_an_outage_removes_a_login_when_it_expires(aws: AwsStandIn, watch: Watch, config: Path) -> None:
    """A valid login stays, an expired one is removed, and the login is back when AWS answers. No secret is logged."""
    seen: list[dict[str, str]] = []

    def look() -> None:
        seen.append(passwords(config))

    log, sleeps = watch(
        until(11.5, look, lambda: aws.script(OUTAGE)),
        until(11.8, look),
        until(11.9, look, aws.settle, lambda: aws.set(token_lifetime=24 * 3600)),
        until(11.9, look),
    )

    assert seen[0].keys() == {EU_HOST}
    assert seen[1:3] == [seen[0], {}]
    assert seen[3].keys() == {EU_HOST}
    assert seen[3] != seen[0]
    assert f"Removed the login for {EU_HOST}" in log
    assert log.count("Cannot get an ECR token") == 1
    assert [secret for secret in aws.secrets() if secret in log] == []
    assert sleeps == [60, 60, 5, 60, 60]


def test_systemd_is_notified_when_the_first_outage_ends(
    aws: AwsStandIn, watch: Watch, config: Path, systemd: socket.socket
) -> None:
    """A host may be up before its network: the command continues, and is ready when it has all logins."""
    aws.script(OUTAGE)
    seen: list[list[str]] = []
    log, _ = watch(until(0.1, lambda: seen.append(states_of(systemd)), aws.settle), until(0.2))

    assert "Cannot get an ECR token" in log
    assert seen == [[]]
    assert set(states_of(systemd)) == {"READY=1"}
    assert passwords(config)


def test_short_lived_tokens_are_renewed_in_time(aws: AwsStandIn, watch: Watch) -> None:
    """The command writes more often than once in the last tenth of a lifetime, in which no token is used."""
    aws.set(token_lifetime=100)

    assert watch()[1] == [pytest.approx(2, abs=0.1)]


def test_a_login_that_another_program_removes_comes_back(watch: Watch, config: Path) -> None:
    """As after ``docker logout``. A broken file stays unchanged until it is corrected."""
    seen: list[str] = []
    log, _ = watch(
        until(0, lambda: config.write_text("{")),
        until(0, lambda: seen.append(config.read_text()), lambda: config.write_text('{"auths": {"ghcr.io": {}}}')),
    )

    assert seen == ["{"]
    assert "is not valid JSON" in log
    assert json.loads(config.read_text())["auths"].keys() == {"ghcr.io", EU_HOST}


def test_a_wrong_file_ends_the_command_at_its_start(watch: Watch, config: Path) -> None:
    """A service manager shows that."""
    config.parent.mkdir()
    config.write_text("{")

    log, sleeps = watch(exit_code=2)
    assert "is not valid JSON" in log
    assert sleeps == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process(number: int, monkeypatch: pytest.MonkeyPatch, systemd: socket.socket) -> None:
    """With exit code 0, and systemd is notified; not by another signal, and not before the end of a write."""
    codes: list[int] = []
    is_ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        is_ended.set()

    monkeypatch.setattr("os._exit", end)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        docker_config._end_on_signals()
        signal.signal(signal.SIGUSR1, lambda *_: None)
        with docker_config.file.WRITING:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(number)
            assert not is_ended.wait(0.1)
        assert is_ended.wait(10)
    finally:
        signal.set_wakeup_fd(-1)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        with suppress(RuntimeError):
            docker_config.file.WRITING.release()

    assert codes == [0]
    assert states_of(systemd) == ["STOPPING=1"]

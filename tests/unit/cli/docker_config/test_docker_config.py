from __future__ import annotations

import json
import signal
import socket
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli import docker_config
from tests.command_settings import EU_HOST, US_HOST, build_kwargs, write_kwargs
from tests.docker_logins import passwords, passwords_in, write
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run

DENIED = Error("AccessDeniedException", region="us-east-1")
OUTAGE = Error("ServiceUnavailable", status=503)
OTHERS: dict[str, Any] = {
    "HttpHeaders": {"User-Agent": "Dörte"},
    "auths": {"ghcr.io": {"auth": "dXNlcjpwYXNz", "email": "a@b.c"}, "https://index.docker.io/v1/": {}},
    "plugins": {"z": {"a": 1.5}, "a": [None, True]},
}


def test_all_mapped_registries_are_logged_in_to(run: Run, aws: AwsStandIn, arguments: Arguments, config: Path) -> None:
    """With valid tokens, in a file for this user alone, which is not written again while its logins are current."""
    first = run(*arguments)
    before = config.stat()
    second = run(*arguments)
    logins, after = passwords(config), config.stat()

    assert aws.authorise("AWS", logins.pop(US_HOST), region="us-east-1").valid
    assert aws.authorise("AWS", logins.pop(EU_HOST), region="eu-central-1").valid
    assert logins == {}
    assert [path.stat().st_mode & 0o777 for path in (config, config.parent)] == [0o600, 0o700]
    assert f"Logged in to {US_HOST} until 20" in first.stderr
    assert f"Already logged in to {US_HOST}" in second.stderr
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_default_folder_is_docker_s(
    run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command, _, _, *rest = arguments
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(command, *rest)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    run(command, *rest)

    assert passwords(tmp_path / "home/.docker/config.json")
    assert passwords(tmp_path / "elsewhere/config.json")


def test_the_rest_of_the_file_is_kept(run: Run, arguments: Arguments, config: Path, tmp_path: Path) -> None:
    """Other registries, unknown keys, their order, and every character, also in a file that a link leads to."""
    linked = tmp_path / "elsewhere/dotfiles.json"
    write(linked, {**OTHERS, "auths": {**OTHERS["auths"], US_HOST: {"identitytoken": "x"}}})
    config.parent.mkdir()
    config.symlink_to(linked)
    run(*arguments)
    text = linked.read_text()
    found = json.loads(text)

    assert config.is_symlink()
    assert list(found) == list(OTHERS)
    assert list(found["auths"]) == ["ghcr.io", "https://index.docker.io/v1/", US_HOST, EU_HOST]
    assert [list(found["auths"].pop(host)) for host in (US_HOST, EU_HOST)] == [["auth"], ["auth"]]
    assert found == OTHERS
    assert "Dörte" in text


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "\ufffd{", "{} {}", '{"auths": []}', '{"auths": {"a": {}}, "auths": {}}', '{"credsStore": {}}'],
)
def test_a_file_that_docker_did_not_write_is_refused(run: Run, arguments: Arguments, config: Path, text: str) -> None:
    """In one line that names the file, which stays unchanged."""
    config.parent.mkdir()
    config.write_text(text)
    (line,) = run(*arguments, exit_code=2).stderr.splitlines()

    assert config.read_text() == text
    assert str(config) in line
    assert "The file is unchanged" in line


@pytest.mark.parametrize(
    ("content", "keys", "clients"),
    [
        ({"credsStore": "desktop"}, ["credsStore"] * 2, "Docker's clients use"),
        ({"credHelpers": {US_HOST: "ecr-login"}}, [f'credHelpers["{US_HOST}"]'], "Docker's clients use"),
        ({"credHelpers": {US_HOST: "", EU_HOST: None}, "credsStore": "x"}, ["credsStore"] * 2, "docker-py uses"),
    ],
)
def test_a_helper_that_wins_is_reported(
    run: Run, arguments: Arguments, config: Path, content: dict[str, Any], keys: list[str], clients: str
) -> None:
    """With the clients that use it, which tests/e2e tries. The login is written nevertheless."""
    write(config, content)
    warnings = [line for line in run(*arguments).stderr.splitlines() if "WARNING" in line]

    assert [line.partition("WARNING ")[2].partition(" in ")[0] for line in warnings] == keys
    assert all(f"which {clients} instead of this login" in line for line in warnings)
    assert US_HOST in passwords(config)


def test_a_login_of_an_earlier_run_is_removed_when_it_has_expired(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path
) -> None:
    """A service may restart during an outage. The login of another program stays."""
    run(*arguments)
    other = {"auth": "QVdTOm90aGVy"}
    config.write_text(json.dumps({"auths": {**json.loads(config.read_text())["auths"], EU_HOST: other}}))
    aws.script(OUTAGE)
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=12)):
        done = run(*arguments, exit_code=1)

    assert f"Removed the login for {US_HOST}" in done.stderr
    assert done.stderr.count("Removed the login for") == 1
    assert json.loads(config.read_text())["auths"] == {EU_HOST: other}


def test_two_identities_for_one_registry_are_refused(
    run: Run, arguments: Arguments, config: Path, tmp_path: Path
) -> None:
    role = {"registry": US_HOST, "role_arn": "arn:aws:iam::123456789012:role/other"}
    write_kwargs(tmp_path, build_kwargs(tmp_path) | {"connections": {"one": US_HOST, "other": role}})

    assert "Name the connections to use" in run(*arguments, exit_code=2).stderr
    assert not config.exists()
    run(*arguments, "other")
    assert list(passwords(config)) == [US_HOST]


@pytest.mark.parametrize("source", ["--config", "DOCKER_CONFIG", "an empty --config"])
def test_a_name_that_is_not_a_folder_s_is_refused(
    run: Run, arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """No folder has the name of the file, and a variable that a script has not set is not the working directory."""
    command, option, _, *rest = arguments
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    chosen = {"--config": (option, config), "an empty --config": (option, "")}.get(source, ())

    assert "Name the folder of" in run(command, *chosen, *rest, exit_code=2).stderr
    assert list(tmp_path.rglob("config.json")) == []


def test_the_logins_are_printed_as_a_file_of_their_own(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, _, folder, *rest = arguments
    write(config, OTHERS)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    printed = run(command, *rest, "--stdout").stdout

    assert list(json.loads(printed)) == ["auths"]
    assert list(passwords_in(printed)) == [US_HOST, EU_HOST]
    assert all(aws.authorise("AWS", password).valid for password in passwords_in(printed).values())
    assert json.loads(config.read_text()) == OTHERS


def test_one_failure_does_not_stop_the_others(run: Run, aws: AwsStandIn, arguments: Arguments, config: Path) -> None:
    """The command writes the logins that it has, prints none in place of all, and ends with exit code 1."""
    command, _, _, *rest = arguments
    aws.script(DENIED)
    done = [run(*arguments, exit_code=1), run(command, *rest, "--stdout", exit_code=1)]

    assert list(passwords(config)) == [EU_HOST]
    assert all("Cannot get an ECR token for connection 'docker_default'" in each.stderr for each in done)
    assert done[1].stdout == ""


@pytest.mark.parametrize("option", ["--watch", "--in-place", "--config=x"])
def test_options_for_a_file_are_refused_beside_stdout(run: Run, arguments: Arguments, option: str) -> None:
    command, _, _, *rest = arguments

    assert "--stdout writes no file" in run(command, *rest, "--stdout", option, exit_code=2).stderr


Work = tuple[float, list["Callable[[], object]"]]


class Watch(Protocol):
    def __call__(self, *work: Work, exit_code: int = 130) -> tuple[str, list[float]]: ...


@pytest.fixture
def watch(run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Run the command for one connection, with work during each sleep, which lasts until so many hours after the start.

    It is interrupted during the next sleep. Return its log, and the seconds of each sleep.
    """
    monkeypatch.setattr(docker_config, "_end_on_signals", lambda: None)

    def watch(*work: Work, exit_code: int = 130) -> tuple[str, list[float]]:
        start, left, sleeps = datetime.now(timezone.utc), iter(work), list[float]()

        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if (work := next(left, None)) is None:
                raise KeyboardInterrupt
            hours, parts = work
            for part in parts:
                part()
            clock.move_to(start + timedelta(hours=hours))

        with freeze_time(start) as clock:
            monkeypatch.setattr(docker_config, "time", type("Time", (), {"sleep": sleep}))
            return run(*arguments, "docker_eu", "--watch", exit_code=exit_code).stderr, sleeps

    return watch


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], set[str]]]:
    """Listen as systemd does; return the states since the last call."""

    def receive() -> set[str]:
        states = set[str]()
        with suppress(BlockingIOError):
            while True:
                states.add(systemd.recv(512).decode())
        return states

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receive


def test_an_outage_removes_a_login_when_it_expires(aws: AwsStandIn, watch: Watch, config: Path) -> None:
    """A valid login stays, an expired one is removed, and the login is back when AWS answers. No secret is logged."""
    seen: list[dict[str, str]] = []

    def look() -> None:
        seen.append(passwords(config))

    log, sleeps = watch(
        (11.5, [look, partial(aws.script, OUTAGE)]),
        (11.8, [look]),
        (11.85, [look]),
        (11.9, [look, aws.settle, partial(aws.set, token_lifetime=24 * 3600)]),
        (11.9, [look]),
    )

    assert seen[0].keys() == {EU_HOST}
    assert seen[1:4] == [seen[0], {}, {}]
    assert seen[4].keys() == {EU_HOST}
    assert seen[4] != seen[0]
    assert f"Removed the login for {EU_HOST}" in log
    assert log.count("Cannot get an ECR token") == 1
    assert log.count(f"Logged in to {EU_HOST} until") == 2
    assert [secret for secret in aws.secrets() if secret in log] == []
    assert sleeps == [60, 60, 5, 5, 60, 60]


def test_systemd_is_notified_when_the_first_outage_ends(
    aws: AwsStandIn, watch: Watch, config: Path, notified: Callable[[], set[str]]
) -> None:
    """A host may be up before its network: the command continues, and is ready when it has all logins."""
    aws.script(OUTAGE)
    seen: list[set[str]] = []
    watch((0.1, [lambda: seen.append(notified()), aws.settle]), (0.2, []))

    assert (seen, notified()) == ([set()], {"READY=1"})
    assert passwords(config)


def test_short_lived_tokens_are_renewed_before_their_last_tenth(aws: AwsStandIn, watch: Watch) -> None:
    """A renewal replaces a login, and removes none."""
    aws.set(token_lifetime=100)
    log, sleeps = watch((0.02, [partial(aws.set, token_lifetime=172)]))  # AWS is 72 s behind then

    assert sleeps == [pytest.approx(2, abs=0.1)] * 2
    assert all("Logged in to" in line for line in log.splitlines())


def test_a_login_that_another_program_removes_comes_back(watch: Watch, config: Path) -> None:
    """As after ``docker logout``. A broken file stays unchanged until it is corrected."""
    seen: list[str] = []
    look, other = (lambda: seen.append(config.read_text())), '{"auths": {"ghcr.io": {}}}'
    log, _ = watch((0, [partial(config.write_text, "{")]), (0, [look, partial(config.write_text, other)]))

    assert seen == ["{"]
    assert "is not valid JSON" in log
    assert json.loads(config.read_text())["auths"].keys() == {"ghcr.io", EU_HOST}


def test_a_wrong_file_ends_the_command_at_its_start(watch: Watch, config: Path) -> None:
    config.parent.mkdir()
    config.write_text("{")

    assert watch(exit_code=2)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process(
    number: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, notified: Callable[[], set[str]]
) -> None:
    """With exit code 0, and systemd is notified; not by another signal, and not before the end of a write."""
    codes: list[int] = []
    is_ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        is_ended.set()

    monkeypatch.setattr("os._exit", end)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        request.addfinalizer(partial(signal.signal, each, signal.getsignal(each)))
    request.addfinalizer(partial(signal.set_wakeup_fd, -1))
    docker_config._end_on_signals()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.raise_signal(signal.SIGUSR1)
    assert not is_ended.wait(0.1)
    with docker_config.file.WRITING:
        signal.raise_signal(number)
        assert not is_ended.wait(0.1)
    assert is_ended.wait(10)
    docker_config.file.WRITING.release()

    assert codes == [0]
    assert notified() == {"STOPPING=1"}

"""AWS at fault, and clocks: what a lookup comes to, how long it takes, and what the processes of a host ask of AWS."""

from __future__ import annotations

import logging
import os
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from freezegun import freeze_time

from ecr_secrets_backend import cache, entry
from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.settings import Settings
from tests.integration.faults import PAUSE_SECONDS, look_up
from tests.requirements import need_root, skip_or_fail
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS, Error, Hang, Reply
from tests.stand_ins.faults import FAULTS, private_answer
from tests.stand_ins.serving import serving
from tests.unit.builders import NOW, build_entry, build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ecr_secrets_backend.token import EcrToken
    from tests.integration.faults import Experience
    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn, Fault

    Strike = Callable[[str], tuple[str, str]]

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
HOUR = 3600.0
IN_TIME_SECONDS = 6.0  # with the retries of boto3, and on a busy machine
AT_ONCE_SECONDS = 0.5  # without waiting for anything, and on a busy machine

#: Users have more patience than tests. The rest is theirs.
IMPATIENT = {"ecr_secrets_backend.aws.READ_TIMEOUT_SECONDS": 0.3, "ecr_secrets_backend.aws.ATTEMPTS": 1}
SHORT_TIMEOUT = {"ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS": 1.0}

#: What AWS does, the code that it is told by, and a part of the remedy.
OUTAGES: dict[str, tuple[Fault, str, str]] = {
    **FAULTS,
    "hang": (Hang(10), "ReadTimeoutError", "reach that endpoint"),
}
#: The same for what keeps a lookup from AWS: variables of the environment, the code, and a part of the remedy.
OBSTACLES: dict[str, tuple[Mapping[str, str | None], str, str]] = {
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        "NoCredentialsError",
        "AWS_PROFILE",
    ),
    "refused": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "EndpointConnectionError", "reach that endpoint"),
    "no name": ({"AWS_ENDPOINT_URL": "http://no-such-name.invalid"}, "EndpointConnectionError", "reach that endpoint"),
    "no TLS": ({"AWS_ENDPOINT_URL": "https://127.0.0.1:{plain_port}"}, "SSLError", "Set verify"),
    "unknown CA": ({"AWS_ENDPOINT_URL": "https://localhost:{tls_port}"}, "SSLError", "Set verify"),
}
#: Answers that no AWS gives.
SHAPES: dict[str, Reply] = {
    "null": Reply("null"),
    "list": Reply("[]"),
    "cut short": Reply('{"authorizationData": [{"authorizationTo'),
    "data is text": Reply('{"authorizationData": "text"}'),
    "data holds text": Reply('{"authorizationData": ["text"]}'),
    "token is a number": private_answer(authorizationToken=5),
    "token is an object": private_answer(authorizationToken={"a": "token"}),
    "end is text": private_answer(expiresAt="soon"),
    "end is far": private_answer(expiresAt=1e30),
    "endpoint is a number": private_answer(proxyEndpoint=5),
    "code is a number": Reply('{"__type": 5, "message": "text"}', status=400),
    "message is null": Reply('{"__type": "AccessDeniedException", "message": null}', status=400),
    "message is an object": Reply('{"__type": "AccessDeniedException", "message": {"a": "text"}}', status=400),
}
MAIN_FAULTS = ("denied", "refused", "reset", "hang")


class Host:
    """What the processes of one user share: the kwargs, a cache, and AWS."""

    def __init__(self, aws: AwsStandIn, processes: Processes, cache_dir: Path) -> None:
        self.aws = aws
        self.processes = processes
        self.store = HostStore(str(cache_dir))
        self.kwargs: dict[str, Any] = {
            "connections": {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"},
            "cache_dir": str(cache_dir),
        }

    def look_up(self, *arguments: Any, **kwargs: Any) -> Experience:
        """Look up in a new process; the arguments are those of :func:`look_up`, the kwargs the backend's."""
        return self.processes.run(look_up, {**self.kwargs, **kwargs}, self.aws, *arguments)

    def look_up_in_two_processes(
        self, *arguments: Any, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Experience, Experience]:
        """Look up in two new processes at the same time."""
        whole = (look_up, self.kwargs, self.aws, *arguments)
        with self.processes.start(*whole) as first, self.processes.start(*whole) as second:
            meanwhile()
            return first.result(), second.result()

    def keep(self, token: EcrToken, *, age: float, uptime: float = 0.0) -> None:
        """
        Put a token into the cache, as if it had been there for some seconds.

        :param age: how long by the host's clock, which may have been set
        :param uptime: how long by the clock that nobody can set
        """
        token = replace(token, received_at=token.received_at - age, expires_at=token.expires_at - age)
        (mapped,) = Settings.parse(self.kwargs).connections.values()
        key = mapped.identity.in_environment(os.environ).key
        entry = build_entry(token=token, recorded_at=token.received_at, age=uptime, key=key)
        self.store.write(f"{key}.json", entry.to_json(), entry.useful_until)


@pytest.fixture
def host(aws: AwsStandIn, processes: Processes, tmp_path: Path) -> Host:
    return Host(aws, processes, tmp_path)


@pytest.fixture(scope="module")
def tls_port() -> Iterator[int]:
    """A server whose certificate comes from a CA that nobody here knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as connection:
                connection.recv(1)

    with serving(Handler) as port:
        yield port


@pytest.fixture
def strike(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tls_port: int) -> Strike:
    """Let something go wrong; gives the code that it is told by, and a part of the remedy."""

    def strike(name: str) -> tuple[str, str]:
        if name in OUTAGES:
            fault, code, fix = OUTAGES[name]
            aws.script(fault)
            return code, fix
        variables, code, fix = OBSTACLES[name]
        for variable, value in variables.items():
            if value is None:
                monkeypatch.delenv(variable)
            else:
                monkeypatch.setenv(variable, value.format(plain_port=aws.url.rpartition(":")[2], tls_port=tls_port))
        return code, fix

    return strike


class TestCold:
    @pytest.mark.parametrize("name", [*OUTAGES, *OBSTACLES])
    def test_a_failure_is_told_in_time_and_repeated_for_nothing(self, host: Host, strike: Strike, name: str) -> None:
        """All of the host get the connection, the region, the code and the remedy, for the price of one mint."""
        code, fix = strike(name)

        first, second = host.look_up(3, 0, IMPATIENT), host.look_up(1, 0, IMPATIENT)

        lookups = first.lookups + second.lookups
        (error,) = {lookup.error for lookup in lookups}
        assert error is not None
        for part in ("'docker_default'", "region: us-east-1", "identity: boto3", f"{code}: ", fix):
            assert part in error
        assert set(first.lines + second.lines) == {(logging.ERROR, error)}
        assert (first.token_requests, second.token_requests) == (1, 0)
        assert lookups[0].seconds < IN_TIME_SECONDS
        assert max(lookup.seconds for lookup in lookups[1:]) < AT_ONCE_SECONDS

    @pytest.mark.parametrize("name", SHAPES)
    def test_an_answer_of_any_shape_ends_in_a_denial(self, host: Host, name: str) -> None:
        """Whatever it is, Airflow gets the one exception that it passes on."""
        host.aws.script(SHAPES[name])

        (lookup,) = host.look_up().lookups

        assert "docker_default" in str(lookup.error)


def resolve_nothing(*_: object) -> None:
    """Be a name server that is silent."""
    threading.Event().wait()


class Dripping(socketserver.BaseRequestHandler):
    """An answer that never pauses for long, and never ends."""

    def handle(self) -> None:
        with suppress(OSError):
            self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Header: ")
            while True:
                self.request.sendall(b"and more ")
                time.sleep(0.1)


@pytest.fixture(params=["name server", "program for credentials", "dripping answer"])
def hanging(
    request: pytest.FixtureRequest, aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Mapping[str, object]]:
    """What boto3's timeouts do not bound; gives what is to be replaced in a process for the sake of the tests."""
    del aws
    if request.param == "name server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-name.invalid")
        yield {**SHORT_TIMEOUT, "socket.getaddrinfo": resolve_nothing}
    elif request.param == "program for credentials":
        (tmp_path / "config").write_text("[default]\ncredential_process = sleep 5\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        yield SHORT_TIMEOUT
    else:
        with serving(Dripping) as port:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            yield SHORT_TIMEOUT


class TestHanging:
    def test_whatever_hangs_is_told_in_time(self, host: Host, hanging: Mapping[str, object]) -> None:
        """A lookup ends with its patience, which is less than half a minute, and says what to look for."""
        (lookup,) = host.look_up(1, 0, hanging).lookups

        assert lookup.error is not None
        for part in ("'docker_default'", "region: us-east-1", "TimedOut: ", "Check what hangs"):
            assert part in lookup.error
        assert 1 <= lookup.seconds < 1 + AT_ONCE_SECONDS
        assert cache.LOOKUP_TIMEOUT_SECONDS <= 30

    def test_what_has_hung_is_not_waited_for_again(self, host: Host, hanging: Mapping[str, object]) -> None:
        """The next lookups, of this and of other processes, repeat the cause at once."""
        first, second = host.look_up(2, 0, hanging), host.look_up(1, 0, hanging)

        again = (*first.lookups[1:], *second.lookups)
        assert {lookup.error for lookup in again} == {first.lookups[0].error}
        assert max(lookup.seconds for lookup in again) < AT_ONCE_SECONDS
        assert (first.token_requests, second.token_requests) == (1, 0)


LIFETIME = 16.0  # of a token that is stale for some seconds, while AWS is left in peace for 1.6 s after each failure
STALE = LIFETIME * 0.5 + 0.1
OUTAGE_SECONDS = 2.5


class TestWarm:
    @pytest.mark.parametrize("name", MAIN_FAULTS)
    def test_a_live_token_is_served_at_once_through_an_outage(self, host: Host, strike: Strike, name: str) -> None:
        """By all processes, with a warning from each, while all together ask AWS once in a back-off."""
        host.aws.set(token_lifetime=LIFETIME)
        token = request_token(IDENTITY)
        strike(name)
        host.keep(token, age=STALE)

        # A call hangs for longer than the second that a renewal is waited for.
        replaced = {"ecr_secrets_backend.aws.READ_TIMEOUT_SECONDS": 2.0, "ecr_secrets_backend.aws.ATTEMPTS": 1}
        processes = host.look_up_in_two_processes(1, OUTAGE_SECONDS, replaced)

        for process in processes:
            assert {(lookup.token, lookup.valid) for lookup in process.lookups} == {(token.password, True)}
            assert len(process.lookups) > OUTAGE_SECONDS / PAUSE_SECONDS / 10
            assert max(lookup.seconds for lookup in process.lookups) < 1 + AT_ONCE_SECONDS
            assert [level for level, _ in process.lines] == [logging.WARNING]
            assert "was not renewed" in process.lines[0][1]
            assert token.password not in process.lines[0][1]
        assert sum(process.token_requests for process in processes) <= 1 + OUTAGE_SECONDS / (
            LIFETIME * entry.BACK_OFF_PART
        )

    def test_a_hang_is_tried_once_though_no_process_sees_its_end(self, host: Host) -> None:
        """Tasks that are over soon do not each wait for the same hang."""
        host.keep(request_token(IDENTITY), age=TOKEN_LIFETIME_SECONDS - HOUR / 2)
        host.aws.script(Hang(20))

        processes = [host.look_up() for _ in range(3)]

        assert sum(process.token_requests for process in processes) == 1
        assert max(process.lookups[0].seconds for process in processes[1:]) < AT_ONCE_SECONDS

    @pytest.mark.parametrize("name", MAIN_FAULTS)
    def test_a_dead_token_is_refused_with_the_cause(self, host: Host, strike: Strike, name: str) -> None:
        """Though AWS might take it for some minutes more."""
        token = request_token(IDENTITY)
        code, fix = strike(name)
        host.keep(token, age=TOKEN_LIFETIME_SECONDS - 290)

        (lookup,) = host.look_up(1, 0, IMPATIENT).lookups

        assert lookup.error is not None
        assert code in lookup.error
        assert fix in lookup.error

    @pytest.mark.parametrize("age", [None, STALE])
    def test_recovery_is_noticed_by_all_processes(self, host: Host, age: float | None) -> None:
        """Whether they were served an old token until then or none, they need no restart, and one new token."""
        host.aws.set(token_lifetime=LIFETIME)
        if age is not None:
            host.keep(request_token(IDENTITY), age=age)
        host.aws.script(Error("ServerException", status=500))
        recovered_at: list[float] = []

        def recover() -> None:
            time.sleep(0.7)
            host.aws.settle()
            recovered_at.append(time.time())

        replaced = {"ecr_secrets_backend.entry.BACK_OFF_SECONDS": 1.6, "ecr_secrets_backend.aws.ATTEMPTS": 1}
        processes = host.look_up_in_two_processes(1, LIFETIME * 0.3, replaced, meanwhile=recover)

        assert [process.lookups[-1].valid for process in processes] == [True, True]
        assert len({process.lookups[-1].token for process in processes}) == 1
        assert all(process.lookups[-1].token != process.lookups[0].token for process in processes)
        assert len([call for call in host.aws.calls() if call.time > recovered_at[0]]) == 1


@pytest.mark.parametrize("age", [None, TOKEN_LIFETIME_SECONDS])
def test_a_failure_that_is_left_to_the_next_backend_is_logged(host: Host, age: float | None) -> None:
    """With ``on_error = "next"`` nothing is served, neither cold nor with a dead token."""
    if age is not None:
        host.keep(request_token(IDENTITY), age=age)
    host.aws.script(Error("AccessDeniedException"))

    process = host.look_up(2, on_error="next")

    assert [(lookup.token, lookup.error) for lookup in process.lookups] == [(None, None)] * 2
    assert {level for level, _ in process.lines} == {logging.ERROR}
    assert "AccessDeniedException" in process.lines[0][1]


EARLY = "Signature not yet current: 20261120T133000Z is still later than 20261120T103500Z (20261120T103000Z + 5 min.)"
LATE = "Signature expired: 20261120T073000Z is now earlier than 20261120T102500Z (20261120T103000Z - 5 min.)"
EXPIRED_CREDENTIALS = """
    <AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>a-key</SecretAccessKey>
    <SessionToken>a-token</SessionToken><Expiration>2020-01-01T00:00:00Z</Expiration>
    </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>
"""


class TestClocks:
    @pytest.mark.parametrize("offset", [300, -300])
    def test_a_clock_that_is_five_minutes_off_serves_no_expired_token(self, host: Host, offset: float) -> None:
        """AWS accepts the requests of such a host, so the margin before a token expires covers the difference."""
        host.aws.set(clock_offset=offset)
        token = request_token(IDENTITY)
        (call,) = host.aws.calls()
        expires_at = call.time + TOKEN_LIFETIME_SECONDS  # by this host's clock

        assert token.is_servable(expires_at - HOUR)
        assert not token.is_servable(expires_at)

    @pytest.mark.parametrize("lag", [1, 11])
    def test_a_clock_that_was_set_back_does_not_prolong_a_token(self, host: Host, lag: int) -> None:
        """A token of twelve hours that was minted thirteen hours ago is dead, whatever the clock says."""
        token = request_token(IDENTITY)
        host.keep(token, age=(12 - lag) * HOUR, uptime=12 * HOUR)

        (lookup,) = host.look_up().lookups

        assert lookup.valid
        assert lookup.token != token.password

    def test_a_clock_that_was_set_back_costs_no_mint(self, host: Host) -> None:
        """The host's uptime tells how old the token is."""
        token = request_token(IDENTITY)
        host.keep(token, age=-3 * HOUR)

        process = host.look_up(2)

        assert [lookup.token for lookup in process.lookups] == [token.password] * 2

    def test_a_token_from_the_future_is_replaced_once(self, host: Host) -> None:
        """The host was started anew, and its clock set back: nobody knows when the token will die."""
        token = request_token(IDENTITY)
        host.keep(token, age=-3 * HOUR, uptime=-HOUR)

        processes = [host.look_up(2) for _ in range(3)]

        served = {lookup.token for process in processes for lookup in process.lookups}
        assert len(served) == 1
        assert token.password not in served
        assert sum(process.token_requests for process in processes) == 1

    def test_a_token_from_the_future_is_not_served_in_an_outage(self, host: Host) -> None:
        """It is as good as dead: the lookup fails with the cause."""
        host.keep(request_token(IDENTITY), age=-3 * HOUR, uptime=-HOUR)
        host.aws.script(Error("AccessDeniedException"))

        (lookup,) = host.look_up().lookups

        assert lookup.token is None
        assert "AccessDeniedException" in str(lookup.error)

    def test_the_time_that_the_host_has_slept_counts(self) -> None:
        """Tokens grow old meanwhile. Here in a time namespace, whose other clocks know nothing of that day."""
        need_root()
        print_uptime = [sys.executable, "-c", "from ecr_secrets_backend.entry import uptime; print(uptime())"]
        after_a_day_asleep = ["unshare", "--time", "--boottime", str(int(24 * HOUR)), "--fork", *print_uptime]
        awake, asleep = (
            subprocess.run(command, capture_output=True, text=True, check=False)
            for command in (print_uptime, after_a_day_asleep)
        )
        if asleep.stderr.startswith("unshare: "):
            skip_or_fail(f"no clock may be set here: {asleep.stderr.strip()}")

        assert float(asleep.stdout) - float(awake.stdout) >= 24 * HOUR

    def test_a_clock_that_goes_back_and_forth_costs_one_mint(self, tmp_path: Path) -> None:
        """All processes agree on the token that was minted by the later time."""
        now = NOW
        token_requests: list[float] = []

        def fake_request() -> EcrToken:
            token_requests.append(now)
            return build_token(received_at=now, password=f"token {len(token_requests)}")

        processes = [TokenCache(HostStore(str(tmp_path)), HOUR, Memory()) for _ in range(3)]
        for _ in range(10):
            with freeze_time(datetime.fromtimestamp(now, timezone.utc)):
                for process in processes:
                    process.get(IDENTITY, fake_request)
            now = NOW if now > NOW else NOW + 20 * HOUR

        assert token_requests == [NOW, NOW + 20 * HOUR]

    @pytest.mark.parametrize(
        "fault",
        [
            Error("InvalidSignatureException", EARLY),
            Error("InvalidSignatureException", LATE),
            Error("SignatureDoesNotMatch", LATE, 403),
            Error("RequestExpired", "Request has expired."),
            Error("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
            Error("RequestInTheFuture", EARLY),
        ],
        ids=lambda fault: fault.code,
    )
    def test_where_aws_refuses_the_clock_the_remedy_names_it(self, host: Host, fault: Error) -> None:
        """And what AWS says of it is told."""
        host.aws.script(fault)

        (lookup,) = host.look_up().lookups

        assert lookup.error is not None
        assert "the clock of this host" in lookup.error
        assert fault.message.rstrip(".") in lookup.error

    def test_where_credentials_seem_to_have_expired_the_remedy_names_the_clock(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A pod's own are given without a signature, whatever its clock, and seem old if that is hours ahead."""
        (tmp_path / "token").write_text("a.web.identity")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::210987654321:role/pull")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        host.aws.script(
            Reply(EXPIRED_CREDENTIALS, content_type="text/xml", operation="AssumeRoleWithWebIdentity"),
        )

        (lookup,) = host.look_up().lookups

        assert "still expired" in str(lookup.error)
        assert "the clock of this host" in str(lookup.error)

"""AWS fails, hangs, or disagrees about the time: the result of a lookup, its duration, and the number of AWS calls."""

from __future__ import annotations

import logging
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import entry
from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.process_helpers import PAUSE_SECONDS, Host, keep_token
from tests.requirements import need_root
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS, Error, Hang, Reply
from tests.stand_ins.faults import FAULTS, private_answer
from tests.stand_ins.serving import serving
from tests.unit.builders import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
IN_TIME_SECONDS = 6.0  # with the retries of boto3, and on a busy machine
AT_ONCE_SECONDS = 0.5  # without waiting for anything, and on a busy machine

#: Shorter than the timeouts of users.
SHORT_READ = {"ecr_secrets_backend.aws.READ_TIMEOUT_SECONDS": 0.3, "ecr_secrets_backend.aws.ATTEMPTS": 1}
SHORT_REQUEST = {"ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS": 1.0}

#: The fault, its code, and a part of its fix. tests/unit/test_aws.py has all others.
OUTAGES = {
    **{name: FAULTS[name] for name in ("denied", "reset", "not JSON")},
    "hang": (Hang(10), "ReadTimeoutError", "reach that endpoint"),
}
#: Answers that AWS does not send.
SHAPES = {
    "null": Reply("null"),
    "list": Reply("[]"),
    "end is far": private_answer(expiresAt=1e30),
    "endpoint is a number": private_answer(proxyEndpoint=5),
    "code is a number": Reply('{"__type": 5, "message": "text"}', status=400),
    "message is an object": Reply('{"__type": "AccessDeniedException", "message": {"a": "text"}}', status=400),
}


class TestCold:
    @pytest.mark.parametrize("name", OUTAGES)
    def test_a_failure_is_reported_in_time_and_repeated_without_a_call(self, host: Host, name: str) -> None:
        """All processes report the connection, the region, the code and the fix, for one request for a token."""
        fault, code, fix = OUTAGES[name]
        host.aws.script(fault)

        first, second = host.run(3, 0, SHORT_READ), host.run(1, 0, SHORT_READ)

        lookups = first.lookups + second.lookups
        (error,) = {lookup.error for lookup in lookups}
        assert error is not None
        for part in ("'docker_default'", "region: us-east-1", "identity: boto3", f"{code}: ", fix):
            assert part in error
        assert set(first.lines + second.lines) == {(logging.ERROR, error)}
        assert (first.token_requests, second.token_requests) == (1, 0)
        assert lookups[0].seconds < IN_TIME_SECONDS
        assert max(lookup.seconds for lookup in lookups[1:]) < AT_ONCE_SECONDS

    @pytest.mark.parametrize(
        ("endpoint_url", "code", "fix"),
        [
            ("http://127.0.0.1:9", "EndpointConnectionError", "reach that endpoint"),
            ("http://no-such-name.invalid", "EndpointConnectionError", "reach that endpoint"),
            ("https://127.0.0.1:{plain_port}", "SSLError", "Set verify"),
        ],
        ids=["refused", "no name", "no TLS"],
    )
    def test_an_endpoint_that_cannot_be_reached_is_reported(
        self, aws: AwsStandIn, endpoint_url: str, code: str, fix: str
    ) -> None:
        endpoint_url = endpoint_url.format(plain_port=aws.url.rpartition(":")[2])

        with pytest.raises(TokenError, match=f"{code}: .*{fix}"):
            request_token(replace(IDENTITY, endpoint_url=endpoint_url))

    @pytest.mark.parametrize("name", SHAPES)
    def test_an_answer_of_any_shape_ends_in_the_exception_of_the_backend(self, aws: AwsStandIn, name: str) -> None:
        aws.script(SHAPES[name])

        with pytest.raises(TokenError):
            request_token(IDENTITY)


def resolve_nothing(*_: object) -> None:
    """Hang, as a name server that does not answer."""
    threading.Event().wait()


class Dripping(socketserver.BaseRequestHandler):
    """An answer that never pauses for long, and never ends."""

    def handle(self) -> None:
        with suppress(OSError):
            self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Header: ")
            while True:
                self.request.sendall(b"and more ")
                time.sleep(0.1)


class TestHanging:
    """No timeout of boto3 ends these hangs. test_hangs.py has those of credential programs."""

    @pytest.mark.parametrize("replaced", [{"socket.getaddrinfo": resolve_nothing}, {}], ids=["name server", "dripping"])
    def test_a_hang_is_reported_in_time_and_not_waited_for_again(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, replaced: Mapping[str, object]
    ) -> None:
        """A lookup times out in less than half a minute; the next lookups, of all processes, repeat that at once."""
        with serving(Dripping) as port:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
            replaced = {**SHORT_REQUEST, **replaced}
            first, second = host.run(2, 0, replaced), host.run(1, 0, replaced)

        lookup, *again = first.lookups + second.lookups
        assert lookup.error is not None
        for part in ("'docker_default'", "region: us-east-1", "TimedOut: ", "Check what hangs"):
            assert part in lookup.error
        assert 1 <= lookup.seconds < 1 + AT_ONCE_SECONDS
        assert {each.error for each in again} == {lookup.error}
        assert max(each.seconds for each in again) < AT_ONCE_SECONDS
        assert (first.token_requests, second.token_requests) == (1, 0)


LIFETIME = 16.0  # seconds; its renewal is due for some of them, with a back-off of 1.6 s
STALE = LIFETIME * 0.5 + 0.1
OUTAGE_SECONDS = 2.5


class TestWarm:
    @pytest.mark.parametrize("name", ["denied", "hang"])
    def test_a_valid_token_is_served_at_once_through_an_outage(self, host: Host, name: str) -> None:
        """Each process is served it, with one warning, and all together call AWS once in a back-off."""
        host.aws.set(token_lifetime=LIFETIME)
        token = keep_token(host.identity, host.cache_dir, age=STALE)
        host.aws.script(OUTAGES[name][0])

        # A call hangs for longer than the second that a lookup waits for a renewal.
        replaced = {"ecr_secrets_backend.aws.READ_TIMEOUT_SECONDS": 2.0, "ecr_secrets_backend.aws.ATTEMPTS": 1}
        with host.start(1, OUTAGE_SECONDS, replaced) as one, host.start(1, OUTAGE_SECONDS, replaced) as other:
            processes = one.result(), other.result()

        for process in processes:
            assert {(lookup.token, lookup.valid) for lookup in process.lookups} == {(token.password, True)}
            assert len(process.lookups) > OUTAGE_SECONDS / PAUSE_SECONDS / 10
            assert process.seconds < 1 + AT_ONCE_SECONDS
            assert [level for level, _ in process.lines] == [logging.WARNING]
            assert "Cannot renew an ECR token" in process.lines[0][1]
            assert token.password not in process.lines[0][1]
        back_offs = OUTAGE_SECONDS / (LIFETIME * entry.BACK_OFF_PART)
        assert sum(process.token_requests for process in processes) <= 1 + back_offs

    def test_a_renewal_that_hangs_is_started_once_though_its_process_ends(self, host: Host) -> None:
        """Tasks that end soon do not wait for the same hang one after another."""
        keep_token(host.identity, host.cache_dir, age=TOKEN_LIFETIME_SECONDS - HOUR / 2)
        host.aws.script(Hang(20))

        processes = [host.run() for _ in range(3)]

        assert sum(process.token_requests for process in processes) == 1
        assert max(process.seconds for process in processes[1:]) < AT_ONCE_SECONDS

    @pytest.mark.parametrize("age", [None, STALE])
    def test_all_processes_notice_that_aws_has_recovered(self, host: Host, age: float | None) -> None:
        """Without a restart, and for one new token, if they were served the current one until then or none."""
        host.aws.set(token_lifetime=LIFETIME)
        if age is not None:
            keep_token(host.identity, host.cache_dir, age=age)
        before = host.token_requests
        host.aws.script(Error("ServerException", status=500))

        replaced = {"ecr_secrets_backend.entry.BACK_OFF_SECONDS": 1.6, "ecr_secrets_backend.aws.ATTEMPTS": 1}
        arguments = (1, LIFETIME * 0.3, replaced)
        with host.start(*arguments) as one, host.start(*arguments) as other:
            while host.token_requests == before:
                time.sleep(0.01)
            time.sleep(0.7)  # the other process fails, too
            host.aws.settle()
            recovered_at = time.time()
            processes = one.result(), other.result()

        assert [process.lookups[-1].valid for process in processes] == [True, True]
        assert len({process.tokens[-1] for process in processes}) == 1
        assert all(process.tokens[-1] != process.tokens[0] for process in processes)
        assert len([call for call in host.aws.calls() if call.time > recovered_at]) == 1


EXPIRED_CREDENTIALS = """
    <AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>a-key</SecretAccessKey>
    <SessionToken>a-token</SessionToken><Expiration>2020-01-01T00:00:00Z</Expiration>
    </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>
"""


class TestClocks:
    @pytest.mark.parametrize("offset", [300, -300])
    def test_a_clock_that_is_five_minutes_off_serves_no_expired_token(self, aws: AwsStandIn, offset: float) -> None:
        """AWS accepts the requests of such a host, so the margin before a token expires covers the difference."""
        aws.set(clock_offset=offset)
        token = request_token(IDENTITY)
        (call,) = aws.calls()
        expires_at = call.time + TOKEN_LIFETIME_SECONDS  # by this host's clock

        assert token.expires_at == pytest.approx(expires_at + offset, abs=2)
        assert token.is_servable(expires_at - HOUR)
        assert not token.is_servable(expires_at)

    def test_the_time_that_the_host_has_slept_counts(self) -> None:
        """A token grows older meanwhile. A time namespace stands for the sleep, which its other clocks do not count."""
        need_root()
        print_uptime = [sys.executable, "-c", "from ecr_secrets_backend.entry import uptime; print(uptime())"]
        after_a_day_asleep = ["unshare", "--time", "--boottime", str(int(24 * HOUR)), "--fork", *print_uptime]
        awake, asleep = (
            subprocess.run(command, capture_output=True, text=True, check=False)
            for command in (print_uptime, after_a_day_asleep)
        )
        if asleep.stderr.startswith("unshare: "):
            pytest.skip(f"no clock may be set here: {asleep.stderr.strip()}")

        assert float(asleep.stdout) - float(awake.stdout) >= 24 * HOUR

    @pytest.mark.parametrize(
        "code", ["SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture"]
    )
    def test_if_aws_refuses_the_clock_the_fix_is_to_set_it(self, aws: AwsStandIn, code: str) -> None:
        aws.script(Error(code, "The difference between the request time and the current time is too large.", 403))

        with pytest.raises(TokenError, match=r"current time is too large.*the clock of this host"):
            request_token(IDENTITY)

    def test_if_new_credentials_have_expired_the_fix_is_to_set_the_clock(
        self, bare: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A pod requests its credentials without a signature, so AWS does not refuse a clock that is hours ahead."""
        (tmp_path / "token").write_text("a.web.identity")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::210987654321:role/pull")
        bare.script(Reply(EXPIRED_CREDENTIALS, content_type="text/xml", operation="AssumeRoleWithWebIdentity"))

        with pytest.raises(TokenError, match=r"still expired(?s:.*)the clock of this host"):
            request_token(IDENTITY)

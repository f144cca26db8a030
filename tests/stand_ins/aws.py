"""
AWS on loopback: moto over HTTP, with ECR tokens that live and die, faults on demand and a memory of every call.

Real boto3 clients reach it through ``AWS_ENDPOINT_URL``::

    with AwsStandIn.running(token_lifetime=30) as aws:
        os.environ.update(aws.environment())
        aws.script(Error("ThrottlingException", times=2), Delay(0.2))
        ...
        assert len(aws.calls(operation="GetAuthorizationToken")) == 3

The server, in `tests.stand_ins.aws_server`, is a process of its own, so forked tests and a whole Airflow can share
one, and only that process imports moto. Here is what its clients see: the handle, the calls, and the faults to script.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_LIFETIME_SECONDS = 12 * 60 * 60.0  # what ECR gives
LONGEST_HANG_SECONDS = 60.0  # well over any timeout worth testing, well under the patience of CI
ADMIN_PATH = "/_stand-in/"  # no AWS service answers under such a path
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """
    One request that reached AWS, as recorded when it arrived.

    :param operation: the API's name for it, such as ``GetAuthorizationToken``
    :param service: the service it was signed for, such as ``ecr``
    :param region: the region it was signed for; empty where the operation needs no signature
    :param access_key_id: who signed it; empty where nobody did
    :param account: the account of that access key
    :param user_agent: the client's ``User-Agent`` header
    :param host: the client's ``Host`` header
    :param time: seconds since the epoch, by the host's clock
    :param parameters: the operation's input; of a query service such as STS every value is a string
    """

    operation: str
    service: str
    region: str
    access_key_id: str
    account: str
    user_agent: str
    host: str
    time: float
    parameters: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Verdict:
    """
    What a registry should do with a login.

    :param valid: whether the token opens the registry now
    :param reason: if not, whether it has ``expired`` or was ``unknown`` from the start
    """

    valid: bool
    reason: Literal["expired", "unknown"] | None = None


@dataclass(frozen=True)
class AwsStandIn:
    """
    A handle on a running stand-in; any process may hold one, and it pickles.

    :param url: where the server listens
    :param secret_access_key: what clients sign with; random, so that a leak of it can be recognised
    """

    access_key_id: ClassVar[str] = "AKIAONLOOPBACKSTANDS"  # twenty capitals and digits, or moto does not see it

    url: str
    secret_access_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)

    @classmethod
    @contextmanager
    def running(
        cls, *, token_lifetime: float = TOKEN_LIFETIME_SECONDS, clock_offset: float = 0.0, port: int = 0
    ) -> Iterator[AwsStandIn]:
        """
        Start a server process that ends with the block, or with this process, however it dies.

        :param token_lifetime: seconds that a token lives; a negative life makes tokens that are born dead
        :param clock_offset: seconds by which AWS's clock is ahead of the host's
        :param port: TCP port on 127.0.0.1; 0 takes a free one
        """
        options = {"token-lifetime": token_lifetime, "clock-offset": clock_offset, "port": port}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.stand_ins.aws_server", "--until-stdin-ends"]
            + [f"--{name}={value}" for name, value in options.items()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))},
            start_new_session=True,  # Ctrl-C is for the tests, which may still have questions
        )
        with process:
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                if not ready:
                    message = f"the AWS stand-in ended with exit code {process.wait()} before it was ready"
                    raise RuntimeError(message)
                yield cls(json.loads(ready)["url"])
            finally:
                process.terminate()

    def environment(self, region_name: str | None = None) -> dict[str, str]:
        """
        Give the environment variables that lead a boto3 client here, and nowhere else.

        The caller sees to it that no other ``AWS_`` variable is set beside them.

        :param region_name: the default region; without it there is none
        """
        region = {"AWS_DEFAULT_REGION": region_name} if region_name else {}
        return region | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def calls(
        self, *, operation: str | None = None, service: str | None = None, region: str | None = None
    ) -> list[Call]:
        """List the calls received, oldest first: all, or those of one operation, service or region."""
        wanted = {"operation": operation, "service": service, "region": region}
        calls = [Call(**call) for call in self._ask("GET", "calls")]
        return [call for call in calls if all(value in (None, getattr(call, key)) for key, value in wanted.items())]

    def secrets(self) -> frozenset[str]:
        """Give every text that no log may hold: passwords, their base64 forms, secret keys, session tokens."""
        return frozenset(self._ask("GET", "secrets")) | {self.secret_access_key}

    def script(self, *faults: Fault) -> None:
        """Add rules to the script, behind those that are there."""
        rules = [{"kind": type(fault).__name__, **asdict(fault)} for fault in faults]
        self._ask("POST", "settings", {"add_faults": rules})

    def settle(self) -> None:
        """Drop the script: AWS is well again."""
        self._ask("POST", "settings", {"faults": []})

    def set(self, *, token_lifetime: float | None = None, clock_offset: float | None = None) -> None:
        """Change, for the calls to come, how long tokens live and how far AWS's clock is ahead, in seconds."""
        settings = {"token_lifetime": token_lifetime, "clock_offset": clock_offset}
        self._ask("POST", "settings", {name: value for name, value in settings.items() if value is not None})

    def authorise(
        self, username: str, password: str, *, region: str | None = None, service: str | None = None
    ) -> Verdict:
        """
        Judge a registry login, by the host's clock and not by AWS's.

        :param username: ``AWS``, for every token
        :param password: the token
        :param region: where given, the region whose registry is asked
        :param service: where given, ``ecr`` or ``ecr-public``
        """
        login = {"username": username, "password": password, "region": region, "service": service}
        return Verdict(**self._ask("POST", "authorise", login))

    def reset(self) -> None:
        """Forget calls and script, and go back to the first settings; tokens and secrets stay known."""
        self._ask("POST", "reset", {})

    def _ask(self, method: str, question: str, body: object = None) -> Any:
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=10)) as connection:
            connection.request(method, ADMIN_PATH + question, json.dumps(body))
            response = connection.getresponse()
            answer = response.read()
        if response.status != HTTPStatus.OK:
            message = f"the AWS stand-in answered {response.status} to {method} {question}: see its standard error"
            raise RuntimeError(message)
        return json.loads(answer)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    body: bytes
    status: int = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/x-amz-json-1.1"),)


@dataclass(frozen=True)
class Fault:
    """
    A rule of the script: what happens to the next calls that match it.

    :param operation: matches this operation only
    :param region: matches this region only
    :param times: how many calls it is good for; without it, all of them until the script is settled
    """

    operation: str | None = field(default=None, kw_only=True)
    region: str | None = field(default=None, kw_only=True)
    times: int | None = field(default=None, kw_only=True)

    def matches(self, call: Call) -> bool:
        return self.operation in (None, call.operation) and self.region in (None, call.region)

    def used(self) -> list[Fault]:
        """Give what is left of the rule after one use: itself, a shorter one, or nothing."""
        if self.times is None:
            return [self]
        return [replace(self, times=self.times - 1)] if self.times > 1 else []

    def play(self, call: Call, connection: socket.socket) -> Answer | None:
        """Act on the call: answer it, break the connection, or return None for the call to go on."""
        raise NotImplementedError


@dataclass(frozen=True)
class Error(Fault):
    """AWS refuses, in the shape of the service's protocol: XML from STS, JSON from all others."""

    code: str
    message: str = "Refused by the stand-in's script."
    status: int = HTTPStatus.BAD_REQUEST

    def play(self, call: Call, connection: socket.socket) -> Answer:  # noqa: ARG002
        if call.service != "sts":
            return Answer(json.dumps({"__type": self.code, "message": self.message}).encode(), self.status)
        error = f"<Type>Sender</Type><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
        body = f"<ErrorResponse><Error>{error}</Error></ErrorResponse>"
        return Answer(body.encode(), self.status, (("Content-Type", "text/xml"),))


@dataclass(frozen=True)
class Reply(Fault):
    """AWS, or a proxy on the way, answers with exactly this text."""

    body: str
    status: int = HTTPStatus.OK
    content_type: str = "application/x-amz-json-1.1"

    def play(self, call: Call, connection: socket.socket) -> Answer:  # noqa: ARG002
        return Answer(self.body.encode(), self.status, (("Content-Type", self.content_type),))


@dataclass(frozen=True)
class Delay(Fault):
    """AWS takes its time; then the next rule that matches, or AWS itself, decides."""

    seconds: float

    def play(self, call: Call, connection: socket.socket) -> None:  # noqa: ARG002
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Close(Fault):
    """The connection ends in good order, without an answer."""

    def play(self, call: Call, connection: socket.socket) -> Answer | None:  # noqa: ARG002
        raise ConnectionAbortedError  # to wsgiref, a client that has gone: nothing more is sent or said


@dataclass(frozen=True)
class Hang(Close):
    """The connection stays open and silent for some seconds, at most `LONGEST_HANG_SECONDS`, and then ends."""

    seconds: float

    def __post_init__(self) -> None:
        if self.seconds > LONGEST_HANG_SECONDS:
            message = f"a hang lasts {LONGEST_HANG_SECONDS:.0f} s at most, not {self.seconds:.0f}"
            raise ValueError(message)

    def play(self, call: Call, connection: socket.socket) -> Answer | None:
        time.sleep(self.seconds)
        return super().play(call, connection)


@dataclass(frozen=True)
class Reset(Close):
    """The connection is torn down with a TCP reset."""

    def play(self, call: Call, connection: socket.socket) -> Answer | None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())  # at once: the server's own way to close begins with an orderly shutdown
        return super().play(call, connection)


FAULTS: dict[str, type[Fault]] = {kind.__name__: kind for kind in (Error, Reply, Delay, Close, Hang, Reset)}


if __name__ == "__main__":
    from tests.stand_ins.aws_server import main

    main()

"""
AWS on loopback: moto over HTTP, with ECR tokens that expire, faults on demand and a record of every call.

Real boto3 clients reach it through ``AWS_ENDPOINT_URL``::

    with AwsStandIn.running() as aws:
        os.environ.update(aws.environment())
        aws.set(token_lifetime=30)
        aws.script(Error("ThrottlingException", times=2), Delay(0.2))
        ...
        assert len(aws.calls(operation="GetAuthorizationToken")) == 3

The server, in `tests.stand_ins.aws_server`, is a process of its own, so forked tests and a whole Airflow can share
one, and only that process imports moto. This module has its clients' part: the handle, the calls, and the faults.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_LIFETIME_SECONDS = 12 * 60 * 60.0  # as ECR has it
LONGEST_HANG_SECONDS = 60.0  # longer than the timeouts of the tests, shorter than that of CI
JSON = "application/x-amz-json-1.1"  # the media type of ECR's answers
ADMIN_PATH = "/_stand-in"  # no AWS service answers under such a path
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """
    One request that reached AWS, as recorded when it arrived.

    :param operation: the API's name for it, such as ``GetAuthorizationToken``
    :param service: the service it was signed for, such as ``ecr``
    :param region: the region it was signed for; empty if it is not signed
    :param access_key_id: the key that signed it; empty if it is not signed
    :param account: the account of that access key
    :param user_agent: the client's ``User-Agent`` header
    :param time: seconds since the epoch, by the host's clock
    :param parameters: the operation's input; of a query service such as STS every value is a string
    """

    operation: str
    service: str
    region: str
    access_key_id: str
    account: str
    user_agent: str
    time: float
    parameters: dict[str, Any]


class Verdict(NamedTuple):
    """
    A registry's decision about a login.

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
    def running(cls) -> Iterator[AwsStandIn]:
        """Start a server process that ends with the block, and if this process is killed."""
        with subprocess.Popen(
            [sys.executable, "-m", "tests.stand_ins.aws_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            text=True,
            start_new_session=True,  # Ctrl-C ends the tests, which may still call it
        ) as process:
            try:
                assert process.stdout is not None
                port = process.stdout.readline().strip()
                assert port, "see its standard error"
                yield cls(f"http://127.0.0.1:{port}")
            finally:
                process.terminate()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that lead a boto3 client here, if no other ``AWS_`` variable is set."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def calls(self, *, operation: str | None = None, region: str | None = None) -> list[Call]:
        """List the calls received, oldest first: all, or those of one operation or region."""
        wanted = {"operation": operation, "region": region}
        calls: list[Call] = self._ask("list_calls")
        return [call for call in calls if all(value in (None, getattr(call, key)) for key, value in wanted.items())]

    def secrets(self) -> frozenset[str]:
        """Return each text that no log may hold: passwords, their base64 forms, secret keys, session tokens."""
        return frozenset(self._ask("list_secrets")) | {self.secret_access_key}

    def script(self, *faults: Fault) -> None:
        """Add rules to the end of the script."""
        self._ask("add_faults", faults)

    def settle(self) -> None:
        """Drop the script: AWS has recovered."""
        self._ask("drop_faults")

    def set(self, *, token_lifetime: float | None = None, clock_offset: float | None = None) -> None:
        """
        Change, for later calls, the lifetime of tokens and the lead of AWS's clock, in seconds.

        Tokens with a negative lifetime are expired from the start.
        """
        self._ask("change", token_lifetime, clock_offset)

    def authorise(
        self, username: str, password: str, *, region: str | None = None, service: str | None = None
    ) -> Verdict:
        """
        Judge a registry login, by the host's clock and not by AWS's.

        :param username: ``AWS``, for every token
        :param password: the token
        :param region: of the registry; None: any region
        :param service: ``ecr`` or ``ecr-public``; None: either
        """
        verdict: Verdict = self._ask("authorise", username, password, region, service)
        return verdict

    def reset(self) -> None:
        """Forget calls and script, and restore the first settings; tokens and secrets stay known."""
        self._ask("reset")

    def _ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the server, over HTTP without a proxy."""
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=10)) as connection:
            connection.request("POST", ADMIN_PATH, pickle.dumps((method, arguments)))
            response = connection.getresponse()
            answer = response.read()
        assert response.status == HTTPStatus.OK, f"{method} of the AWS stand-in failed: see its standard error"
        return pickle.loads(answer)  # noqa: S301 - of our own server


@dataclass(kw_only=True)
class Fault:
    """
    A rule of the script: a fault of the next calls that match it.

    :param operation: the only operation that it matches; None: all
    :param region: the only region that it matches; None: all
    :param times: the number of calls it applies to; None: all of them until the script ends
    """

    operation: str | None = None
    region: str | None = None
    times: int | None = None

    def matches(self, call: Call) -> bool:
        return self.times != 0 and self.operation in (None, call.operation) and self.region in (None, call.region)

    def play(self, call: Call, connection: socket.socket) -> Response | None:
        """Answer the call, break the connection, or return None to let the call continue."""
        raise NotImplementedError


@dataclass
class Error(Fault):
    """A refusal of AWS in the form of the service: XML from STS, JSON from all others."""

    code: str
    message: str = "Refused by the stand-in's script."
    status: int = HTTPStatus.BAD_REQUEST

    def play(self, call: Call, connection: socket.socket) -> Response:  # noqa: ARG002
        if call.service != "sts":
            return Response(json.dumps({"__type": self.code, "message": self.message}), self.status, content_type=JSON)
        error = f"<Type>Sender</Type><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
        return Response(f"<ErrorResponse><Error>{error}</Error></ErrorResponse>", self.status, content_type="text/xml")


@dataclass
class Reply(Fault):
    """An answer of AWS, or of a proxy in front of it, with exactly this text."""

    body: str
    status: int = HTTPStatus.OK
    content_type: str = JSON

    def play(self, call: Call, connection: socket.socket) -> Response:  # noqa: ARG002
        return Response(self.body, self.status, content_type=self.content_type)


@dataclass
class Delay(Fault):
    """A slow answer: afterwards the next rule that matches, or AWS itself, decides."""

    seconds: float

    def play(self, call: Call, connection: socket.socket) -> None:  # noqa: ARG002
        time.sleep(self.seconds)


@dataclass
class Close(Fault):
    """An orderly end of the connection, without an answer."""

    def play(self, call: Call, connection: socket.socket) -> Response | None:  # noqa: ARG002
        raise ConnectionAbortedError  # the server takes it for a client that has left, and sends and logs nothing


@dataclass
class Hang(Close):
    """A silent connection for some seconds, at most `LONGEST_HANG_SECONDS`, which then ends."""

    seconds: float

    def play(self, call: Call, connection: socket.socket) -> Response | None:
        time.sleep(self.seconds)
        return super().play(call, connection)


@dataclass
class Reset(Close):
    """A TCP reset."""

    def play(self, call: Call, connection: socket.socket) -> Response | None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())  # at once, because the server closes with an orderly shutdown
        return super().play(call, connection)

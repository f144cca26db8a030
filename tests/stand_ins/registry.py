"""
ECR's registries on loopback: their own host names over TLS, and real registries behind them.

ECR adds a check of the login to a plain registry. This stand-in answers as ECR does: with a challenge to a request
without a login, with a refusal to a wrong login, and with another, well known refusal to an expired token. Other
requests go to a registry that serves all clients. The stand-in for AWS knows which tokens are valid::

    with RegistryStandIn("192.0.2.1", {host: 5000}, certificate, aws, log).running():
        ...  # docker login <host>, where <host> means that address
"""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import threading
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, TypeAlias

from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Literal

    import trustme

    from tests.stand_ins.aws import AwsStandIn

HTTPS_PORT = 443
UPSTREAM_TIMEOUT_SECONDS = 30.0  # a registry on loopback answers in milliseconds, also on a busy machine
EXPIRED_MESSAGE = "Your authorization token has expired. Reauthenticate and try again."
OWN_HEADERS = ("host", "authorization", "connection")  # of this connection alone


Verdict: TypeAlias = 'Literal["challenged", "unknown", "expired", "denied", "served"]'


@dataclass(frozen=True)
class Request:
    """
    One request that reached a registry, without its login.

    :param host: the registry
    :param status: the HTTP status of the answer
    :param verdict: ``challenged`` without a login, ``unknown`` or ``expired`` with a bad one, ``denied`` without a
        permission, else ``served``
    """

    host: str
    path: str
    status: int
    verdict: Verdict


class RegistryStandIn(ThreadingHTTPServer):
    """
    All registries of an account, distinguished by the request's host.

    :param address: the IP address where they listen, at HTTPS's port
    :param upstreams: the host of each registry, and the loopback port of the real one behind it
    :param certificate: a certificate for these hosts
    :param aws: knows which tokens are valid
    :param log: a file that gets a line of JSON for each request
    :param port: where they listen

    ``denied`` has the missing IAM action of each repository that may not be pulled.
    """

    daemon_threads = True

    def __init__(
        self,
        address: str,
        upstreams: Mapping[str, int],
        certificate: trustme.LeafCert,
        aws: AwsStandIn,
        log: Path,
        port: int = HTTPS_PORT,
    ) -> None:
        self.upstreams = upstreams
        self.aws = aws
        self.denied: dict[str, str] = {}
        self._log = log
        self._lock = threading.Lock()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._tls)
        log.touch()
        super().__init__((address, port), Handler)

    @contextmanager
    def running(self) -> Iterator[RegistryStandIn]:
        """Serve in threads of this process until the block ends."""
        with serving(self):
            yield self

    def requests(self) -> list[Request]:
        """List the requests so far, oldest first."""
        with self._lock:
            return [Request(**json.loads(line)) for line in self._log.read_text().splitlines()]

    def record(self, request: Request) -> None:
        """Write a request into the log."""
        with self._lock, self._log.open("a") as log:
            log.write(json.dumps(asdict(request)) + "\n")

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection, and leave its handshake to its own thread, so that a slow client delays no other."""
        connection, address = super().get_request()
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address


def region_of(host: str) -> str:
    """Return the region that one of ECR's own names has; a proxy under another name is of us-east-1."""
    return host.split(".")[3] if ".dkr." in host else "us-east-1"


class Handler(BaseHTTPRequestHandler):
    """One connection of a client that pulls."""

    server: RegistryStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Serve a request with a valid login, and refuse others."""
        self._host = self.headers["Host"]
        kind, _, login = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic":
            self._refuse("challenged", HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "Not Authorized")
            return
        username, _, password = base64.b64decode(login).decode().partition(":")
        region = region_of(self._host)
        match self.server.aws.authorise(username, password, region=region, service="ecr").reason:
            case "unknown":
                self._refuse("unknown", HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "Not Authorized")
            case "expired":
                self._refuse("expired", HTTPStatus.FORBIDDEN, "DENIED", EXPIRED_MESSAGE)
            case None:
                self._pass_on_what_is_allowed()

    def do_HEAD(self) -> None:
        """Answer as to GET, but for the body."""
        self.do_GET()

    def _refuse(self, verdict: Verdict, status: HTTPStatus, code: str, message: str) -> None:
        self.server.record(Request(self._host, self.path, status, verdict))
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", f'Basic realm="https://{self._host}/",service="ecr.amazonaws.com"')
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _pass_on_what_is_allowed(self) -> None:
        """Require the actions that ECR requires at each part of a pull."""
        _, _, repository, kind, *_ = (*self.path.split("/"), "", "")
        missing = self.server.denied.get(repository)
        if missing == {"manifests": "ecr:BatchGetImage", "blobs": "ecr:GetDownloadUrlForLayer"}.get(kind, ""):
            region = region_of(self._host)
            message = (
                f"User: arn:aws:iam::123456789012:user/tester is not authorized to perform: {missing} on resource:"
                f" arn:aws:ecr:{region}:123456789012:repository/{repository} because no identity-based policy allows"
                f" the {missing} action"
            )
            self._refuse("denied", HTTPStatus.FORBIDDEN, "DENIED", message)
        elif kind == "manifests" and not self._has(repository):
            message = f"The repository with name '{repository}' does not exist in the registry with id '123456789012'"
            self._refuse("served", HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", message)
        else:
            self._pass_on()

    def _has(self, repository: str) -> bool:
        """Return whether there is a repository, which the answer to a request for a manifest does not show."""
        port = self.server.upstreams[self._host]
        with closing(HTTPConnection("127.0.0.1", port, timeout=UPSTREAM_TIMEOUT_SECONDS)) as upstream:
            upstream.request("GET", f"/v2/{repository}/tags/list")
            return upstream.getresponse().status == HTTPStatus.OK

    def _pass_on(self) -> None:
        port = self.server.upstreams[self._host]
        with closing(HTTPConnection("127.0.0.1", port, timeout=UPSTREAM_TIMEOUT_SECONDS)) as upstream:
            upstream.putrequest(self.command, self.path, skip_accept_encoding=True)
            for name, value in self.headers.items():  # one by one, because Docker sends several "Accept" headers
                if name.lower() not in OWN_HEADERS:
                    upstream.putheader(name, value)
            upstream.endheaders()
            answer = upstream.getresponse()
            self.server.record(Request(self._host, self.path, answer.status, "served"))
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            shutil.copyfileobj(answer, self.wfile)

    def log_message(self, *_: object) -> None:
        """Write nothing to standard error: the server has a log of its own."""

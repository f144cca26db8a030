"""
ECR's registries on loopback: their own host names over TLS, and real registries behind them.

ECR adds a check of the login to a plain registry. This stand-in answers as ECR does: with a challenge to a request
without a login, with a refusal to a wrong login, and with another, well known refusal to an expired token. Other
requests go to a registry that serves all clients. The stand-in for AWS knows which tokens are valid::

    with RegistryStandIn("192.0.2.1", {host: 5000}, certificate, aws).running():
        ...  # docker login <host>, where <host> means that address
"""

from __future__ import annotations

import json
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import urllib3
from werkzeug.wrappers import Request as HttpRequest
from werkzeug.wrappers import Response

from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import trustme
    from werkzeug.datastructures import Headers

    from tests.stand_ins.aws import AwsStandIn

HTTPS_PORT = 443
EXPIRED_MESSAGE = "Your authorization token has expired. Reauthenticate and try again."
OWN_HEADERS = {"Host", "Authorization", "Connection", "Transfer-Encoding"}  # of one connection alone


Verdict: TypeAlias = Literal["challenged", "unknown", "expired", "denied", "served"]


class Request(NamedTuple):
    """
    One request that reached a registry, without its login.

    :param host: the registry
    :param verdict: ``challenged`` without a login, ``unknown`` or ``expired`` with a bad one, ``denied`` without a
        permission, else ``served``
    """

    host: str
    path: str
    verdict: Verdict


@dataclass
class RegistryStandIn:
    """
    All registries of an account, distinguished by the request's host.

    :param address: the IP address where they listen
    :param upstreams: the host of each registry, and the loopback port of the real one behind it
    :param certificate: a certificate for these hosts
    :param aws: knows which tokens are valid
    :param port: where they listen
    :param denied: the missing IAM action of each repository without access to its manifests
    """

    address: str
    upstreams: Mapping[str, int]
    certificate: trustme.LeafCert
    aws: AwsStandIn
    port: int = HTTPS_PORT
    denied: dict[str, str] = field(default_factory=dict)
    _requests: list[Request] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[RegistryStandIn]:
        """Serve in threads of this process until the block ends."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.configure_cert(tls)
        server = http_server(self.answer, self.address, self.port)
        # Each handshake is in the thread of its connection, so that a slow client delays no other.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        with serving(server):
            yield self

    def requests(self) -> list[Request]:
        """List the requests so far, oldest first."""
        return list(self._requests)

    def answer(self, request: HttpRequest) -> Response:
        """Serve a request with a valid login, and refuse others."""
        verdict, response = self._judge(request)
        self._requests.append(Request(request.host, request.path, verdict))
        return response

    def _judge(self, request: HttpRequest) -> tuple[Verdict, Response]:
        login = request.authorization
        if login is None or login.type != "basic":
            return "challenged", challenge(request.host)
        region = region_of(request.host)
        verdict = self.aws.authorise(login.username or "", login.password or "", region=region, service="ecr")
        if verdict.reason == "unknown":
            return "unknown", challenge(request.host)
        if verdict.reason == "expired":
            return "expired", refuse(HTTPStatus.FORBIDDEN, "DENIED", EXPIRED_MESSAGE)
        repository, _, manifest = request.path.removeprefix("/v2/").partition("/manifests/")
        if manifest and (missing := self.denied.get(repository)):
            message = (
                f"User: arn:aws:iam::123456789012:user/tester is not authorized to perform: {missing} on resource:"
                f" arn:aws:ecr:{region}:123456789012:repository/{repository} because no identity-based policy allows"
                f" the {missing} action"
            )
            return "denied", refuse(HTTPStatus.FORBIDDEN, "DENIED", message)
        url = f"http://127.0.0.1:{self.upstreams[request.host]}{request.environ['RAW_URI']}"
        sent = urllib3.request(
            request.method, url, headers=headers_of(request.headers), redirect=False, preload_content=False
        )
        return "served", Response(sent.stream(decode_content=False), sent.status, headers_of(sent.headers))


def headers_of(headers: Headers | urllib3.HTTPHeaderDict) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in OWN_HEADERS}


def region_of(host: str) -> str:
    """Return the region that one of ECR's own names has; a proxy under another name is of us-east-1."""
    return host.split(".")[3] if ".dkr." in host else "us-east-1"


def challenge(host: str) -> Response:
    response = refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "Not Authorized")
    response.headers["WWW-Authenticate"] = f'Basic realm="https://{host}/",service="ecr.amazonaws.com"'
    return response


def refuse(status: HTTPStatus, code: str, message: str) -> Response:
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
    return Response(body, status, headers, content_type="application/json")

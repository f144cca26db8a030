from __future__ import annotations

import base64
import json
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from werkzeug.wrappers import Request, Response

from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from tests.command_settings import US_HOST
from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = US_HOST
S3 = "prod-us-east-1-starport-layer-bucket.s3.us-east-1.amazonaws.com"
CDN = "production.cloudflare.example"
LOGIN = ("AWS", "a-token")
STEPS = [
    *("configuration", "AWS identity", "token", "registry: login"),
    *("image: registry", "image: permission", "image: tag", "image: platform"),
    *("engine", "engine: login", "engine: login used", "Docker's own logins"),
]
Answer = tuple[int, dict[str, str], bytes]
DIGEST = f"sha256:{'0' * 64}"
CONTENT = {"config": {"digest": DIGEST}, "os": "linux", "architecture": "amd64"}


@dataclass
class Site:
    proxy: str
    reachable: set[str] = field(default_factory=lambda: {HOST, S3, CDN})
    refusal: str = "502 Bad Gateway"  # of the proxy, for other hosts
    seen: list[str] = field(default_factory=list)  # the requests, with their logins
    answers: dict[str, Answer] = field(default_factory=dict)  # in place of the usual ones, by path
    storage: str = S3
    accepted: str | None = None  # the only login; None: any

    def answer(self, path: str, status: int = 200, message: str = "", code: str = "DENIED") -> None:
        """Let the registry answer a path with an error of its API."""
        self.answers[path] = status, {}, json.dumps({"errors": [{"code": code, "message": message}]}).encode()


class Server(ThreadingHTTPServer):
    site: Site
    tls: ssl.SSLContext


class Handler(BaseHTTPRequestHandler):
    """The proxy, which also answers for the hosts behind it."""

    server: Server

    def login(self, header: str) -> str:
        return base64.b64decode(self.headers.get(header, "").partition(" ")[2]).decode()

    def do_CONNECT(self) -> None:
        site = self.server.site
        site.seen.append(f"CONNECT {self.path} {self.login('Proxy-Authorization')}")
        if self.path.removesuffix(":443") not in site.reachable:
            self.wfile.write(f"HTTP/1.1 {site.refusal}\r\n\r\n".encode())
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as self.request:
            self.setup()
            self.handle_one_request()

    def do_GET(self) -> None:
        site, login, host = self.server.site, self.login("Authorization"), self.headers["Host"]
        site.seen.append(f"{host}{self.path} {login}".rstrip())
        answer: Answer = 200, {}, json.dumps(CONTENT).encode()
        if self.path.startswith("/v2/app/blobs/"):
            answer = 307, {"Location": f"https://{site.storage}/layer?signature=x"}, b""
        if site.accepted not in (None, login):
            answer = 401, {}, b""
        status, headers, body = site.answers.get(self.path.partition("?")[0], answer)
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        with suppress(OSError):  # of a client that has read enough
            self.wfile.write(body)

    def log_request(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    authority, path = trustme.CA(), tmp_path_factory.mktemp("site") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    server = Server(("127.0.0.1", 0), Handler)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, S3, CDN).configure_cert(server.tls)
    with serving(server):
        yield server, path


@pytest.fixture
def site(_server: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> Site:
    server, authority = _server
    server.site = Site(f"127.0.0.1:{server.server_port}")
    for name in ("no_proxy", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pa%20ss@{server.site.proxy}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    return server.site


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return Docker's configuration, a file that does not exist yet."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


#: The status and the document with which a Docker engine answers a request, by the end of its path.
ENGINE: dict[str, tuple[int, Any]] = {
    "version": (200, {"Version": "28.0", "ApiVersion": "1.44", "Os": "linux", "Arch": "amd64"}),
    "auth": (200, {"Status": "Login Succeeded"}),
    "_ping": (200, b"OK"),
}


@pytest.fixture(scope="session")
def _engine() -> Iterator[str]:
    def answer(request: Request) -> Response:
        status, document = ENGINE[request.path.rpartition("/")[2]]
        body = document if isinstance(document, bytes) else json.dumps(document)
        return Response(body, status, mimetype="application/json")

    with TemporaryDirectory() as folder, serving(http_server(answer, f"unix://{folder}/docker.sock")):
        yield f"unix://{folder}/docker.sock"  # sockets have short paths


@pytest.fixture
def engine(_engine: str, docker_config: Path) -> str:
    """Return the URL of a Docker engine that answers with ``ENGINE``."""
    del docker_config
    return _engine


def fail(step: Callable[[], object]) -> StepResult:
    with pytest.raises(CheckFailed) as caught:
        step()
    return caught.value.result

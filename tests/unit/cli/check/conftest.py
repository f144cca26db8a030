from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_connection, socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ecr_secrets_backend.cli.check.image import Image, Pull
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
S3 = "prod-us-east-1-starport-layer-bucket.s3.us-east-1.amazonaws.com"
CDN = "production.cloudflare.example"
LOGIN = ("AWS", "a-token")
STEPS = [
    *("configuration", "AWS identity", "token", "registry: login"),
    *("image: registry", "image: permission", "image: tag", "image: platform"),
    *("engine", "engine: login", "engine: login used", "Docker's own logins"),
]
AMD64 = "linux/amd64"
DIGEST = f"sha256:{'0' * 64}"
CONTENT = {"config": {"digest": DIGEST}, "os": "linux", "architecture": "amd64"}


@dataclass
class Site:
    """A registry and two hosts of layers, which only a proxy can reach.

    :param reachable: the hosts that the proxy connects to
    :param refusal: its answer for others
    :param seen: what has reached proxy, registry and storage
    :param answers: a status, headers and body for a path, in place of the usual ones
    :param accepted: the only login that the registry accepts; None: any
    """

    proxy: str = ""
    reachable: set[str] = field(default_factory=lambda: {HOST, S3, CDN})
    refusal: str = "502 Bad Gateway"
    seen: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    storage: str = S3
    accepted: str | None = None

    def answer(self, path: str, status: int = 200, message: str = "", code: str = "DENIED") -> None:
        """Have the registry answer a path with an error of its API."""
        self.answers[path] = status, {}, json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ExitStack() as stack:
        registry = stack.enter_context(serving(registry_of(site, authority)))
        site.proxy = f"127.0.0.1:{stack.enter_context(serving(proxy_of(site, registry)))}"
        for name in ("no_proxy", "https_proxy", "http_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pa%20ss@{site.proxy}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        yield site


def registry_of(site: Site, authority: trustme.CA) -> socketserver.TCPServer:
    """A registry with an image, and the storage of the image's configuration, as ECR's are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, S3, CDN).configure_cert(context)

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = base64.b64decode(self.headers.get("Authorization", "Basic ").partition(" ")[2]).decode()
            site.seen.append(f"{self.headers['Host']}{self.path} {login}".rstrip())
            status, headers, body = 200, {}, json.dumps(CONTENT).encode()
            if self.path.startswith("/v2/app/blobs/"):
                status, headers = 307, {"Location": f"https://{site.storage}/layer?signature=x"}
            if site.accepted not in (None, login):
                status = 401
            status, headers, body = site.answers.get(self.path.partition("?")[0], (status, headers, body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # of a client that has read enough
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def proxy_of(site: Site, port: int) -> socketserver.TCPServer:
    """A proxy that knows by itself where names lead: all to one port."""

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, target, _ = self.rfile.readline().decode().split()
            headers = b"".join(iter(self.rfile.readline, b"\r\n")).decode()
            user = base64.b64decode(headers.partition("Basic ")[2].partition("\r\n")[0]).decode()
            site.seen.append(f"CONNECT {target} {user}")
            if target.partition(":")[0] not in site.reachable:
                self.wfile.write(f"HTTP/1.1 {site.refusal}\r\n\r\n".encode())
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with closing(create_connection(("127.0.0.1", port))) as upstream:
                back = threading.Thread(target=pump, args=(upstream, self.connection))
                back.start()
                pump(self.connection, upstream)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    return Server(("127.0.0.1", 0), Proxy)


def pump(source: socket, target: socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(1)


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration, in a folder of the test's own; it does not exist yet."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


#: What a Docker engine answers to the request for its version; why it refuses all requests, or a login; a status and
#: body for all requests. In a reason, {password} and {header} are what the login had.
ENGINE: dict[str, Any] = {
    "version": {"Version": "28.0", "ApiVersion": "1.44", "Os": "linux", "Arch": "amd64"},
    "refusal": None,
    "auth": None,
    "body": None,
}


@pytest.fixture
def engine(docker_config: Path) -> Iterator[str]:
    """A Docker engine that answers with ``ENGINE``; yields its URL."""
    del docker_config

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            is_login = self.path.endswith("/auth")
            status, answer = 200, {"Status": "Login Succeeded"} if is_login else ENGINE["version"]
            if refusal := ENGINE["refusal"] or (is_login and ENGINE["auth"]):
                header = base64.b64encode(f"{sent.get('username')}:{sent.get('password')}".encode()).decode()
                status, answer = 500, {"message": refusal.format(header=header, **sent)}
            body = b"OK" if self.path.endswith("/_ping") else json.dumps(answer).encode()
            if ENGINE["body"]:
                status, body = ENGINE["body"][0], ENGINE["body"][1].encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the base class's manner

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with TemporaryDirectory() as folder, serving(Server(f"{folder}/docker.sock", Engine)):  # sockets have short paths
        yield f"unix://{folder}/docker.sock"


def fail(step: Callable[[], object]) -> StepResult:
    """Return the result of a step that fails."""
    with pytest.raises(CheckFailed) as caught:
        step()
    return caught.value.result


def pull(tag: str = "1") -> Pull:
    return Pull(RegistryClient(HOST, LOGIN), Image(HOST, "app", tag))

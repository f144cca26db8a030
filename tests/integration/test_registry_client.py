"""A check's way to a registry behind a proxy, with real sockets and TLS."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_connection, socket
from typing import TYPE_CHECKING

import pytest
import trustme

from ecr_secrets_backend.cli.check.image import Image
from ecr_secrets_backend.cli.check.pull import Platform, Pull
from ecr_secrets_backend.cli.check.registry import MANIFEST_TYPES, RegistryClient
from ecr_secrets_backend.cli.check.result import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STORAGE = "storage.example"
LOGIN = ("AWS", "a-token")
AMD64 = Platform("linux", "amd64")


@dataclass
class Site:
    """
    A registry and its storage, which only a proxy can reach.

    :param reachable: the hosts that the proxy lets through
    :param seen: what has reached proxy, registry and storage
    """

    reachable: set[str] = field(default_factory=lambda: {HOST, STORAGE})
    seen: list[str] = field(default_factory=list)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ExitStack() as stack:
        registry = stack.enter_context(serving(registry_of(site, authority)))
        proxy = stack.enter_context(serving(proxy_of(site, registry)))
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pa%20ss@127.0.0.1:{proxy}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        yield site


def registry_of(site: Site, authority: trustme.CA) -> socketserver.TCPServer:
    """A registry with an image, whose configuration lies elsewhere, as ECR's does; and that place itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, STORAGE).configure_cert(context)

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = base64.b64decode(self.headers.get("Authorization", "Basic ").partition(" ")[2]).decode()
            site.seen.append(f"{self.headers['Host']}{self.path} {login}".rstrip())
            redirects = self.path.startswith("/v2/app/blobs/")
            self.send_response(307 if redirects else 200)
            if redirects:
                self.send_header("Location", f"https://{STORAGE}/layer?signature=x")
            self.end_headers()
            content = {"config": {"digest": "sha256:0"}, "os": "linux", "architecture": "amd64"}
            self.wfile.write(json.dumps(content).encode())

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
                self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
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


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_a_registry_is_reached_by_the_proxy_of_the_environment(site: Site) -> None:
    """Only the proxy's name is looked up; TLS is the registry's; the proxy gets its own login and not the token."""
    client = RegistryClient(HOST)

    assert client.resolve() == ["127.0.0.1"]
    client.connect()
    assert client.handshake().startswith("TLS")
    assert client.get("/v2/", LOGIN).status == 200
    assert site.seen[-2:] == [f"CONNECT {HOST}:443 user:pa ss", f"{HOST}/v2/ AWS:a-token"]


def test_an_image_is_followed_to_the_storage_of_its_layers(site: Site) -> None:
    """Which is asked without the login."""
    pull = Pull(RegistryClient(HOST), LOGIN, Image(HOST, "app", "1"))
    pull.ask()

    assert pull.fit(AMD64).state == "good"
    assert site.seen[-1] == f"{STORAGE}/layer?signature=x"


def test_a_storage_that_cannot_be_reached_is_named(site: Site) -> None:
    """As in a network with a way to ECR and none to S3, where a pull begins and then hangs."""
    site.reachable.remove(STORAGE)
    pull = Pull(RegistryClient(HOST), LOGIN, Image(HOST, "app", "1"))
    pull.ask()

    with pytest.raises(Fault) as caught:
        pull.fit(AMD64)

    assert caught.value.code == "storage-unreachable"
    assert "gateway endpoint for S3" in caught.value.remedy


def test_a_registry_behind_a_proxy_that_refuses_is_not_reached(site: Site) -> None:
    """The client says so by an OSError."""
    site.reachable.clear()

    with pytest.raises(OSError, match="502"):
        RegistryClient(HOST).get("/v2/", LOGIN, MANIFEST_TYPES)

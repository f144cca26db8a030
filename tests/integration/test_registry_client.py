"""The registry's step of ``check``, with real sockets and TLS."""

from __future__ import annotations

import socketserver
import ssl
import threading
from contextlib import ExitStack, closing, suppress
from socket import socket
from typing import TYPE_CHECKING

import pytest
import trustme

from ecr_secrets_backend.cli import check
from ecr_secrets_backend.cli.check import registry
from ecr_secrets_backend.cli.check.registry import RegistryClient
from tests.stand_ins.serving import serving
from tests.unit.cli.check.conftest import LOGIN, fail

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _short_timeouts_without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(registry, "READ_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(registry, "CONNECT_TIMEOUT_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("greeting", "code", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls-broken", "does not complete TLS"),
        (b"", "tls-broken", "does not complete TLS"),
        (None, "port-silent", "does not answer"),
    ],
    ids=["plain HTTP", "closed", "silent"],
)
def test_a_failure_before_the_request_is_named(greeting: bytes | None, code: str, words: str) -> None:
    over = threading.Event()

    class Greeting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.connection.recv(65536)
            if greeting is None:
                over.wait(30)
            self.wfile.write(greeting or b"")

    with serving(Greeting) as port:
        result = fail(RegistryClient(f"localhost:{port}", LOGIN).check_login)
        over.set()

    assert result.code == code
    assert f"localhost:{port} {words}" in result.message


def test_a_port_that_accepts_no_connection_is_silent() -> None:
    """Such as a port behind a firewall that drops packets."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket()))
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # the kernel accepts no more than fit into its queue
            client = stack.enter_context(closing(socket()))
            client.settimeout(0)
            client.connect_ex(server.getsockname())
        result = fail(RegistryClient(f"127.0.0.1:{server.getsockname()[1]}", LOGIN).check_login)

    assert result.code == "port-silent"
    assert "HTTPS_PROXY" in str(result.fix)


@pytest.mark.parametrize(
    "drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"]
)
def test_an_answer_that_never_ends_ends_the_step(drip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes arrive too often for a timeout of the connection."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(check, "STEP_TIMEOUT_SECONDS", 1.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    over = threading.Event()

    class Dripping(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while not over.wait(0.01):
                    self.wfile.write(drip)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server) as port:
        step = RegistryClient(f"localhost:{port}", LOGIN).check_login
        (finding,) = check.run_step([], None, "registry: login", step)
        over.set()

    assert finding.code == "timed-out"

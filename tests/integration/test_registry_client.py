"""The registry's part of ``check``, with real sockets, TLS and proxies."""

from __future__ import annotations

import base64
import gzip
import json
import re
import secrets
import socketserver
import ssl
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_connection, socket
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ecr_secrets_backend.cli import check
from ecr_secrets_backend.cli.check import registry
from ecr_secrets_backend.cli.check.image import Image, Pull
from ecr_secrets_backend.cli.check.registry import LARGEST_ANSWER_BYTES, RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from tests.integration.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
S3 = "prod-us-east-1-starport-layer-bucket.s3.us-east-1.amazonaws.com"
CDN = "production.cloudflare.example"
LOGIN = ("AWS", "a-token")
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
    """

    proxy: str = ""
    reachable: set[str] = field(default_factory=lambda: {HOST, S3, CDN})
    refusal: str = "502 Bad Gateway"
    seen: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    storage: str = S3

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
    """A registry with an image, whose configuration is in a storage, as ECR's are; and that storage itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, S3, CDN).configure_cert(context)

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = base64.b64decode(self.headers.get("Authorization", "Basic ").partition(" ")[2]).decode()
            site.seen.append(f"{self.headers['Host']}{self.path} {login}".rstrip())
            status, headers, body = 200, {}, json.dumps(CONTENT).encode()
            if self.path.startswith("/v2/app/blobs/"):
                status, headers = 307, {"Location": f"https://{site.storage}/layer?signature=x"}
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


def fail(step: Callable[[], object]) -> StepResult:
    """Return the result of a step that fails."""
    with pytest.raises(CheckFailed) as caught:
        step()
    return caught.value.result


def pull(tag: str = "1") -> Pull:
    return Pull(RegistryClient(HOST, LOGIN), Image(HOST, "app", tag))


def test_a_registry_is_reached_by_the_proxy_of_the_environment(site: Site) -> None:
    """Only the proxy gets its own login, and only the registry the token."""
    assert RegistryClient(HOST, LOGIN).check_login().state == "good"
    assert site.seen == [f"CONNECT {HOST}:443 user:pa ss", f"{HOST}/v2/ AWS:a-token"]


@pytest.mark.parametrize(
    ("refusal", "status"), [("407 Proxy Authentication Required", "407"), ("403 Forbidden", "403"), ("502", "502")]
)
def test_a_proxy_that_refuses_is_named(site: Site, refusal: str, status: str) -> None:
    """With its answer, and with how a login for it is written."""
    site.refusal = refusal
    site.reachable.clear()

    result = fail(RegistryClient(HOST, LOGIN).check_login)

    assert result.code == "proxy-refused"
    assert f"the proxy {site.proxy} refuses" in result.message
    assert status in result.message
    assert "NO_PROXY" in str(result.fix)
    assert "USER:PASSWORD" in str(result.fix)


@pytest.mark.parametrize(
    ("url", "code", "hop"),
    [
        ("http://127.0.0.1:9", "port-closed", "127.0.0.1:9"),
        ("127.0.0.1:9", "port-closed", "127.0.0.1:9"),
        ("http://no.such.name.invalid:3128", "name-not-found", "no.such.name.invalid:3128"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_proxy_that_cannot_be_reached_is_named(
    url: str, code: str, hop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the registry behind it."""
    monkeypatch.setenv("HTTPS_PROXY", url)

    result = fail(RegistryClient(HOST, LOGIN).check_login)

    # A machine without a network has no name server that could say that there is no such name.
    assert result.code in (code, "no-name-server" if code == "name-not-found" else code)
    assert f"the proxy {hop}" in result.message


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8O80", "http://[::1", "http://", "http://:80", "socks5://127.0.0.1:1080", "http://a b"),
        *("http://user:s3cret#x@proxy:80", "http://user:1234#s3cret@proxy:80", "http://user:s3cret/x@proxy:80"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_proxy_whose_url_is_wrong_is_reported_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that are not percent-encoded put parts of a password into the place of a host or port."""
    monkeypatch.setenv("HTTPS_PROXY", url)

    result = fail(RegistryClient(HOST, LOGIN).check_login)

    assert result.code == "proxy-invalid"
    assert "s3cret" not in str(result)
    assert "1234" not in str(result)


def test_hosts_of_no_proxy_are_reached_directly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker's engine does."""
    monkeypatch.setenv("NO_PROXY", f"localhost,{HOST.partition('.')[2]}")

    assert fail(RegistryClient(f"{HOST}:9", LOGIN).check_login).code != "proxy-refused"
    assert site.seen == []


def test_an_image_is_followed_to_the_storage_of_its_layers(site: Site) -> None:
    """Which gets no login."""
    checked = pull()
    checked.check_permission()

    assert checked.check_platform(AMD64).state == "good"
    assert site.seen[-1] == f"{S3}/layer?signature=x"


@pytest.mark.parametrize(("storage", "fix"), [(S3, "gateway endpoint for S3"), (CDN, f"TCP to {CDN}")])
def test_a_storage_that_cannot_be_reached_is_named(site: Site, storage: str, fix: str) -> None:
    """A pull begins and then hangs: layers come from S3, or from the host that a pull-through cache redirects to."""
    site.storage = storage
    site.reachable.remove(storage)
    checked = pull()
    checked.check_permission()

    result = fail(lambda: checked.check_platform(AMD64))

    assert result.code == "storage-unreachable"
    assert storage in result.message
    assert fix in str(result.fix)


def test_a_storage_that_refuses_is_named(site: Site) -> None:
    """As S3 does where the policy of its endpoint denies the layers."""
    site.answers["/layer"] = 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
    checked = pull()
    checked.check_permission()

    result = fail(lambda: checked.check_platform(AMD64))

    assert (result.code, f"{S3}, which answers 403" in result.message) == ("storage-unreachable", True)


def test_a_wrong_secret_of_a_pull_through_cache_is_named(site: Site) -> None:
    """ECR answers for the registry behind it."""
    message = "The authentication to the upstream registry failed. Verify that the credentials are valid."
    site.answer("/v2/app/manifests/1", 403, message)

    result = fail(pull().check_permission)

    assert result.code == "upstream-login-failed"
    assert "ecr-pullthroughcache/" in str(result.fix)


@pytest.mark.parametrize("code", ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"])
def test_a_digest_that_is_missing_may_have_to_be_pulled_by_its_tag_first(site: Site, code: str) -> None:
    """A pull-through cache imports no image by its digest."""
    site.answer(f"/v2/app/manifests/{DIGEST}", 404, "not found", code)

    result = fail(pull(DIGEST).check_permission)

    assert result.code == "digest-missing"
    assert "by its tag first" in str(result.fix)


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/manifests/1", "/v2/app/blobs/" + DIGEST])
def test_a_limit_on_requests_is_named(site: Site, path: str) -> None:
    """By whatever step meets it."""
    site.answer(path, 429, "Rate exceeded", "TOOMANYREQUESTS")

    def steps() -> None:
        RegistryClient(HOST, LOGIN).check_login()
        checked = pull()
        checked.check_permission()
        checked.check_platform(AMD64)

    assert fail(steps).code == "rate-limited"


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "https://", "file:///etc/passwd", "gopher://x/", "https://h:99999/", "//", "https://\x00/"),
        *("https://user:s3cret@no.such.name.invalid/", f"https://{HOST}/v2/app/blobs/{DIGEST}", "/", "?", "\x7f"),
    ],
)
def test_a_redirect_to_an_odd_url_is_no_traceback(site: Site, location: str) -> None:
    """Nor is a circle of them."""
    site.answers[f"/v2/app/blobs/{DIGEST}"] = 307, {"Location": location}, b""
    checked = pull()
    checked.check_permission()

    with suppress(CheckFailed):
        assert checked.check_platform(AMD64).code in ("ok", "platform-unknown")


ODD_VALUES: list[Any] = [None, 1, "a", [], {}, [1], [None], ["a"], {"a": []}, [[]], [{}], [{"platform": 1}]]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("key", ["manifests", "config", "tags", "errors", "os"])
def test_an_answer_of_any_shape_is_no_traceback(site: Site, key: str, value: Any) -> None:
    """Whatever a registry puts into a manifest, a list of tags or an error."""
    body = json.dumps({**CONTENT, key: value}).encode()
    site.answers["/v2/app/manifests/1"] = site.answers["/layer"] = 200, {}, body
    site.answers["/v2/app/manifests/2"] = site.answers["/v2/app/tags/list"] = 404, {}, body
    for tag in ("1", "2"):
        checked = pull(tag)
        with suppress(CheckFailed):
            checked.check_permission()
            checked.check_reference()
            checked.check_platform(AMD64)


def test_an_answer_is_read_up_to_a_limit_and_not_decompressed(site: Site) -> None:
    """A small one could become a large one."""
    for path, headers, body in (
        ("/v2/app/manifests/1", {}, b" " * (2 * LARGEST_ANSWER_BYTES)),
        ("/v2/app/manifests/2", {"Content-Encoding": "gzip"}, gzip.compress(b" " * (100 * LARGEST_ANSWER_BYTES))),
    ):
        site.answers[path] = 200, headers, body
        assert len(RegistryClient(HOST, LOGIN).get(path).content) <= LARGEST_ANSWER_BYTES


@pytest.mark.parametrize(
    ("greeting", "code", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls-broken", "does not complete TLS"),
        (b"", "tls-broken", "does not complete TLS"),
        (None, "port-silent", "does not answer"),
    ],
)
def test_what_breaks_before_a_request_is_named(
    greeting: bytes | None, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that speaks plain HTTP, one that closes the connection, and one that never says anything."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(registry, "READ_SECONDS", 0.5)
    monkeypatch.setattr(registry, "CONNECT_SECONDS", 0.5)
    over = threading.Event()

    class Greeting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.connection.recv(65536)
            if greeting is None:
                over.wait(30)
            else:
                self.wfile.write(greeting)

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting)) as port:
        result = fail(RegistryClient(f"localhost:{port}", LOGIN).check_login)
        over.set()

    assert result.code == code
    assert f"localhost:{port} {words}" in result.message


def test_a_port_that_accepts_no_connection_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one behind a firewall that drops packets."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(registry, "CONNECT_SECONDS", 0.5)
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket()))
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # the kernel accepts no more than its queue holds
            client = stack.enter_context(closing(socket()))
            client.settimeout(0)
            client.connect_ex(server.getsockname())
        result = fail(RegistryClient(f"127.0.0.1:{server.getsockname()[1]}", LOGIN).check_login)

    assert result.code == "port-silent"
    assert "HTTPS_PROXY" in str(result.fix)


@pytest.mark.parametrize(
    "drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"]
)
def test_a_registry_that_never_finishes_its_answer_ends_the_step(
    drip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes come too often for a timeout of the connection."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(check, "STEP_SECONDS", 1.0)
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

    assert finding.result.code == "timed-out"


def test_a_registry_that_echoes_the_login_reveals_nothing(site: Site) -> None:
    """Neither the token, nor the header that it was sent in, nor a part of either."""
    token = secrets.token_urlsafe(1500)
    header = base64.b64encode(f"AWS:{token}".encode()).decode()
    site.answer("/v2/", 401, f"Basic {header} is not AWS:{token} but {header[:40]}")

    (finding,) = check.run_step([token, header], None, "a step", RegistryClient(HOST, ("AWS", token)).check_login)

    assert finding.result.message == f"{HOST} refuses the token: Basic *** is not AWS:*** but ***"


def test_a_step_that_raises_anything_is_a_finding() -> None:
    """With the exception's type and place, and without its words, which may hold what was sent."""

    def step() -> StepResult:
        message = "s3cret"
        raise KeyError(message)

    (finding,) = check.run_step([], None, "a step", step)

    assert finding.result.code == "unexpected-error"
    assert re.fullmatch(r"unexpected KeyError at test_registry_client.py:\d+", finding.result.message)
    assert finding.result.state == "failed"


def test_a_proxy_that_is_wrong_is_no_traceback_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which fails at its first request to AWS."""
    kwargs = json.dumps({"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")})
    for url in ("http://127.0.0.1:8O80", "http://[::1"):
        monkeypatch.setenv("HTTPS_PROXY", url)
        done = run("check", "--backend-kwargs", "-", exit_code=1, given=kwargs)

        assert "Failed: no-" in done.stdout

from __future__ import annotations

import errno
import gzip
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.check import registry
from ecr_secrets_backend.cli.check.registry import LARGEST_RESPONSE_BYTES, RegistryClient, Response
from tests.unit.cli.check.conftest import CDN, HOST, LOGIN, Site, fail

if TYPE_CHECKING:
    from pathlib import Path

client = RegistryClient(HOST, LOGIN)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"[]", b"null", b"1", b'"a"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff"),
        *(b'{"errors": []}', b'{"errors": [5]}', b'{"errors": {}}', b'{"errors": [{"code": 1, "message": []}]}'),
    ],
)
def test_an_answer_of_another_shape_has_no_error(content: bytes) -> None:
    """A proxy's page, for example."""
    assert Response(500, content).error == ("", "")


def test_a_registry_is_reached_through_the_proxy_of_the_environment(site: Site) -> None:
    """Only the proxy gets its own login, and only the registry the token."""
    assert client.check_login().state == "good"
    assert site.seen == [f"CONNECT {HOST}:443 user:pa ss", f"{HOST}/v2/ AWS:a-token"]


@pytest.mark.parametrize("refusal", ["407 Basic dXNlcjpwYSBzcw== is not known, user:pa ss", "403 Forbidden", "502"])
def test_a_proxy_that_refuses_is_reported_without_its_login(site: Site, refusal: str) -> None:
    """The finding shows the status, and not the reason, which may repeat the login."""
    site.refusal = refusal
    site.reachable.clear()

    result = fail(client.check_login)

    assert result.code == "proxy-refused"
    assert result.message == f"the proxy {site.proxy} refuses to connect to the registry: {refusal[:3]}"
    assert "NO_PROXY" in str(result.fix)
    assert "user name and password into HTTPS_PROXY" in str(result.fix)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((302, {"Location": f"https://{CDN}/login"}, b""), f"{HOST} redirects to {CDN}"),
        ((404, {}, b"<html>"), f"{HOST} answers 404"),
    ],
)
def test_what_is_not_a_registry_is_reported(
    site: Site, answer: tuple[int, dict[str, str], bytes], message: str
) -> None:
    """A proxy or a login page answers in the place of the registry."""
    site.answers["/v2/"] = answer

    result = fail(client.check_login)

    assert (result.code, result.message) == ("registry-error", message)
    assert "proxy, firewall or login page" in str(result.fix)


@pytest.mark.parametrize(
    ("error", "code", "fix"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "no answer"), "no-name-server", "name server"),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), "name-not-found", "Correct the registry"),
        (OSError(errno.EHOSTUNREACH, "no route"), "no-network", "Allow TCP"),
    ],
)
@pytest.mark.parametrize("proxy", [None, "proxy.example:3128"])
@pytest.mark.usefixtures("site")
def test_a_host_that_cannot_be_reached_is_reported(
    error: OSError, code: str, fix: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy, the proxy is that host, and VPC endpoints are no fix."""

    def look_up(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("HTTPS_PROXY", proxy or "")

    result = fail(client.check_login)

    assert result.code == code
    assert result.message.startswith(f"the proxy {proxy} " if proxy else f"{HOST} ")
    assert ("Correct HTTPS_PROXY" if proxy else fix) in str(result.fix)
    assert ("VPC" in str(result.fix)) is (proxy is None)


def test_a_proxy_that_answers_with_its_login_is_reported_without_it(site: Site) -> None:
    """The finding shows how the proxy fails, and not what it sends."""
    site.refusal = "user:s3cret"
    site.reachable.clear()

    result = fail(client.check_login)

    assert result.message.startswith(f"the proxy {site.proxy} does not answer: ")
    assert "s3cret" not in str(result)


def test_a_proxy_s_password_may_have_an_at_sign(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's engine and boto3 accept it without percent-encoding."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p@ss@{site.proxy}")

    assert client.check_login().state == "good"
    assert site.seen[0] == f"CONNECT {HOST}:443 user:p@ss"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9"])
@pytest.mark.usefixtures("site")
def test_a_proxy_may_be_named_without_its_scheme(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)

    result = fail(client.check_login)

    assert (result.code, result.message[:23]) == ("port-closed", "the proxy 127.0.0.1:9 c")


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8O80", "http://[::1", "http://", "http://:80", "socks5://127.0.0.1:1080", "http://a b"),
        *("http://user:s3cret#x@proxy:80", "http://user:1234#s3cret@proxy:80"),
        *("http://user:s3cret/x@proxy:80", "http://svc:1234/s3cret@proxy:80"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_proxy_whose_url_is_wrong_is_reported_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that are not percent-encoded put parts of a password into the place of a host or port."""
    monkeypatch.setenv("HTTPS_PROXY", url)

    result = fail(client.check_login)

    assert result.code == "proxy-invalid"
    assert "s3cret" not in str(result)
    assert "1234" not in str(result)


def test_a_registry_that_asks_to_retry_later_is_reported_at_once(site: Site) -> None:
    site.answers["/v2/"] = 429, {"Retry-After": "60"}, b""

    assert fail(client.check_login).code == "rate-limited"


def test_hosts_of_no_proxy_are_reached_directly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")

    assert fail(RegistryClient("localhost:9", LOGIN).check_login).code == "port-closed"
    assert site.seen == []


@pytest.mark.usefixtures("site")
def test_a_certificate_that_is_not_trusted_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix names the places for the CA, for this check and for the engine."""
    monkeypatch.delenv("SSL_CERT_FILE")

    result = fail(client.check_login)

    assert result.code == "tls-untrusted"
    assert f"/etc/docker/certs.d/{HOST}/ca.crt" in str(result.fix)


@pytest.mark.usefixtures("site")
def test_a_file_that_is_no_certificate_does_not_hide_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's engine reads all files in the registry's folder."""
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setattr(registry, "CERTIFICATES", tmp_path)
    folder = tmp_path / HOST
    folder.mkdir()
    shutil.copy(tmp_path / "ca.pem", folder / "ca.crt")
    for number in range(20):  # their order is any
        (folder / f"{number}.crt").write_text("not a certificate")

    assert client.check_login().state == "good"


def test_an_answer_is_read_up_to_a_limit_and_not_decompressed(site: Site) -> None:
    """A small one could become a large one."""
    for path, headers, body in (
        ("/v2/app/manifests/1", {}, b" " * (2 * LARGEST_RESPONSE_BYTES)),
        ("/v2/app/manifests/2", {"Content-Encoding": "gzip"}, gzip.compress(b" " * (100 * LARGEST_RESPONSE_BYTES))),
    ):
        site.answers[path] = 200, headers, body
        assert len(client.get(path).content) <= LARGEST_RESPONSE_BYTES

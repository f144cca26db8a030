from __future__ import annotations

import errno
import gzip
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from ecr_secrets_backend.cli.check import registry
from ecr_secrets_backend.cli.check.registry import RegistryClient, Response
from tests.unit.cli.check.conftest import CDN, HOST, LOGIN, Site, fail

if TYPE_CHECKING:
    from pathlib import Path

client = RegistryClient(HOST, LOGIN)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"[]", b"null", b'"a"', b"[" * 100_000, b"\xff"),
        *(b'{"errors": []}', b'{"errors": [5]}', b'{"errors": {}}', b'{"errors": [{"code": 1, "message": []}]}'),
    ],
    ids=lambda content: content[:15],
)
def test_an_answer_of_another_shape_has_no_error(content: bytes) -> None:
    assert Response(500, content).error == ("", "")


@pytest.mark.parametrize(("written", "sent"), [("pa%20ss", "pa ss"), ("p@ss", "p@ss")])
def test_a_registry_is_reached_through_the_proxy_of_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch, written: str, sent: str
) -> None:
    """Only the proxy gets its own login, and only the registry the token. An @ needs no percent-encoding."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{written}@{site.proxy}")

    assert client.check_login().state == "good"
    assert site.seen == [f"CONNECT {HOST}:443 user:{sent}", f"{HOST}/v2/ AWS:a-token"]


@pytest.mark.parametrize(
    ("refusal", "code", "message", "fix"),
    [
        ("407 user:pa ss is not known", "proxy-refused", "refuses to connect to the registry: 407", "into HTTPS_PROXY"),
        ("403 Forbidden", "proxy-refused", "refuses to connect to the registry: 403", "NO_PROXY"),
        ("user:pa ss", "registry-error", "does not answer: ", "Try again"),
    ],
)
def test_a_proxy_that_refuses_is_reported_without_its_login(
    site: Site, refusal: str, code: str, message: str, fix: str
) -> None:
    """The finding shows the status, and not the reason, which may repeat the login."""
    site.refusal = refusal
    site.reachable.clear()
    result = fail(client.check_login)

    assert result.code == code
    assert result.message.startswith(f"the proxy {site.proxy} {message}")
    assert fix in str(result.fix)
    assert "pa ss" not in str(result)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(("proxy", "is_shown"), [("", True), ("http://proxy:1", True), ("http://u:p@proxy:1", False)])
def test_an_unknown_reason_is_shown_unless_it_may_repeat_the_login_of_a_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str, is_shown: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=OSError("an odd reason")))

    assert fail(client.check_login).message.endswith(" does not answer: an odd reason") is is_shown


@pytest.mark.parametrize(
    ("status", "headers", "code", "message"),
    [
        (302, {"Location": f"https://{CDN}/login"}, "registry-error", f"{HOST} redirects to {CDN}"),
        (404, {}, "registry-error", f"{HOST} answers 404"),
        (429, {"Retry-After": "60"}, "rate-limited", f"{HOST} answers 429"),  # reported at once
    ],
)
def test_an_unexpected_answer_is_reported(
    site: Site, status: int, headers: dict[str, str], code: str, message: str
) -> None:
    site.answers["/v2/"] = status, headers, b"<html>"
    result = fail(client.check_login)

    assert (result.code, result.message) == (code, message)
    assert ("proxy, firewall or login page" in str(result.fix)) is (code == "registry-error")


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
    """Behind a proxy, the proxy is that host, and VPC endpoints are no fix. Its URL may have no scheme."""

    def look_up(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("HTTPS_PROXY", proxy or "")
    result = fail(client.check_login)

    assert result.code == code
    assert result.message.startswith(f"the proxy {proxy} " if proxy else f"{HOST} ")
    assert ("Correct HTTPS_PROXY" if proxy else fix) in str(result.fix)
    assert ("VPC" in str(result.fix)) is (proxy is None)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8O80", "http://[::1", "http://", "http://:80", "socks5://127.0.0.1:1080", "http://a b"),
        *("http://user:s3cret#x@proxy:80", "http://user:1234#s3cret@proxy:80", "http://svc:1234/s3cret@proxy:80"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_proxy_whose_url_is_wrong_is_reported_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that are not percent-encoded put parts of a password into the place of a host or port."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    result = fail(client.check_login)

    assert result.code == "proxy-invalid"
    assert not any(part in str(result) for part in ("s3cret", "1234"))


def test_hosts_of_no_proxy_are_reached_directly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")

    assert fail(RegistryClient("localhost:9", LOGIN).check_login).code == "port-closed"
    assert site.seen == []


@pytest.mark.usefixtures("site")
def test_a_registry_is_trusted_by_its_certificates_in_docker_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fix names that folder. A file that is no certificate does not hide others."""
    authority = os.environ["SSL_CERT_FILE"]
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setattr(registry, "CERTIFICATES", tmp_path)
    result = fail(client.check_login)
    folder = tmp_path / HOST
    folder.mkdir()
    shutil.copy(authority, folder / "ca.crt")
    for number in range(20):  # their order is any
        (folder / f"{number}.crt").write_text("not a certificate")

    assert result.code == "tls-untrusted"
    assert f"/etc/docker/certs.d/{HOST}/ca.crt" in str(result.fix)
    assert client.check_login().state == "good"


def test_an_answer_is_read_up_to_a_limit_and_not_decompressed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LARGEST_RESPONSE_BYTES", 1000)
    small = gzip.compress(b" " * 10_000)
    site.answers["/large"] = 200, {}, b" " * 10_000
    site.answers["/small"] = 200, {"Content-Encoding": "gzip"}, small

    assert client.get("/large").content == b" " * 1000
    assert client.get("/small").content == small

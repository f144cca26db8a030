from __future__ import annotations

import gzip

import pytest

from ecr_secrets_backend.cli.check.registry import LARGEST_ANSWER_BYTES, Answer, RegistryClient, reject
from tests.unit.cli.check.conftest import CDN, HOST, LOGIN, Site, fail


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"[]", b"null", b"1", b'"a"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff"),
        *(b'{"errors": []}', b'{"errors": [5]}', b'{"errors": {}}', b'{"errors": [{"code": 1, "message": []}]}'),
    ],
)
def test_an_answer_of_another_shape_has_no_error(content: bytes) -> None:
    """A proxy's page, for example."""
    assert Answer(500, content).error == ("", "")


def test_an_answer_has_the_error_of_the_registry() -> None:
    """Its code and its message."""
    assert Answer(404, b'{"errors": [{"code": "A", "message": "b", "detail": {}}]}').error == ("A", "b")


def test_too_many_requests_are_reported_as_such() -> None:
    """With what the registry says of them."""
    result = reject(Answer(429, b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "Rate exceeded"}]}', "h")).result

    assert (result.code, result.message) == ("rate-limited", "h answers 429 Rate exceeded")


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
    assert "user name and password into HTTPS_PROXY" in str(result.fix)


def test_a_proxy_that_echoes_its_login_reveals_nothing(site: Site) -> None:
    """The reason of its refusal is not repeated."""
    site.refusal = "407 Basic dXNlcjpwYSBzcw== is not known, user:pa ss"
    site.reachable.clear()

    result = fail(RegistryClient(HOST, LOGIN).check_login)

    assert result.message == f"the proxy {site.proxy} refuses to connect to the registry: 407"


def test_a_login_page_is_not_taken_for_the_registry(site: Site) -> None:
    """A proxy sends the request to another host, which answers it well."""
    site.answers["/v2/"] = 302, {"Location": f"https://{CDN}/login"}, b""

    result = fail(RegistryClient(HOST, LOGIN).check_login)

    assert (result.code, result.message) == ("registry-error", f"{HOST} redirects to {CDN}")


def test_what_is_not_a_registry_is_named(site: Site) -> None:
    """The host is wrong, or a proxy answers."""
    site.answer("/v2/", 404, "no such page")

    assert "Correct the host" in str(fail(RegistryClient(HOST, LOGIN).check_login).fix)


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
    assert "HTTPS_PROXY" in str(result.fix)
    assert "VPC" not in str(result.fix)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8O80", "http://[::1", "http://", "http://:80", "socks5://127.0.0.1:1080"),
        *(
            "http://user:s3cret#x@proxy:80",
            "http://user:1234#s3cret@proxy:80",
            "http://user:s3cret/x@proxy:80",
            "http://svc:1234/s3cret@proxy:80",
        ),
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


@pytest.mark.usefixtures("site")
def test_a_proxy_with_a_space_in_its_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 2, urllib3 takes it for a name that cannot be encoded."""
    monkeypatch.setenv("HTTPS_PROXY", "http://a b")

    assert fail(RegistryClient(HOST, LOGIN).check_login).code in ("proxy-invalid", "registry-error")


def test_hosts_of_no_proxy_are_reached_directly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker's engine does."""
    monkeypatch.setenv("NO_PROXY", f"localhost,{HOST.partition('.')[2]}")

    assert fail(RegistryClient(f"{HOST}:9", LOGIN).check_login).code != "proxy-refused"
    assert site.seen == []


def test_an_answer_is_read_up_to_a_limit_and_not_decompressed(site: Site) -> None:
    """A small one could become a large one."""
    for path, headers, body in (
        ("/v2/app/manifests/1", {}, b" " * (2 * LARGEST_ANSWER_BYTES)),
        ("/v2/app/manifests/2", {"Content-Encoding": "gzip"}, gzip.compress(b" " * (100 * LARGEST_ANSWER_BYTES))),
    ):
        site.answers[path] = 200, headers, body
        assert len(RegistryClient(HOST, LOGIN).get(path).content) <= LARGEST_ANSWER_BYTES

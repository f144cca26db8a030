from __future__ import annotations

import json

import pytest

from ecr_secrets_backend.cli.check.registry import Answer, RegistryClient

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("proxy", "excluded", "hop"),
    [
        (None, None, (HOST, 443)),
        ("http://proxy.example:3128", None, ("proxy.example", 3128)),
        ("proxy.example:3128", None, ("proxy.example", 3128)),
        ("http://user:pass@proxy.example", None, ("proxy.example", 80)),
        ("http://proxy.example:3128", "localhost,.amazonaws.com", (HOST, 443)),
        ("http://proxy.example:3128", "*", (HOST, 443)),
    ],
)
def test_the_first_hop_is_that_of_the_environment(
    proxy: str | None, excluded: str | None, hop: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry itself, or the proxy that is set for it."""
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    if excluded:
        monkeypatch.setenv("NO_PROXY", excluded)

    assert RegistryClient(HOST).first_hop == hop


def test_a_proxy_s_own_login_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a secret of somebody else."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass@proxy.example:3128")

    assert RegistryClient(HOST).way == "the proxy proxy.example:3128"


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"null", b'{"errors": []}', b'{"errors": [5]}'])
def test_an_answer_of_another_shape_tells_no_error(content: bytes) -> None:
    """A proxy's page, perhaps."""
    assert Answer(500, content, None).error == ("", "")


def test_a_message_of_a_registry_is_one_bounded_line() -> None:
    """It is shown at a terminal."""
    _, message = Answer(404, json.dumps({"errors": [{"message": "\x1b[2J\n" + "a" * 200_000}]}).encode(), None).error

    assert message.isprintable()
    assert len(message) <= 600


def test_an_answer_tells_the_error_of_the_registry() -> None:
    """Its code and its message."""
    assert Answer(404, b'{"errors": [{"code": "A", "message": "b"}]}', None).error == ("A", "b")

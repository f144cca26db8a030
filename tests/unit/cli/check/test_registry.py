from __future__ import annotations

import pytest

from ecr_secrets_backend.cli.check.registry import Answer, reject


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

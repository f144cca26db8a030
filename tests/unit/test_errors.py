from __future__ import annotations

import pickle
import time

import pytest

from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError, TokenError, one_line
from tests.unit.builders import build_failure

FAILURE = "AccessDeniedException: not allowed (identity: a role, region: us-east-1). Allow it."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConfigurationError(path="connections.é\nb\x1b[31m", problem="is a list", fix="Write an object."),
            r"connections.é\nb\x1b[31m is a list. Write an object.",
        ),
        (TokenError(failure=build_failure()), FAILURE),
        (
            ConnectionUnavailableError(conn_id="docker_default", failure=build_failure()),
            f"Cannot get an ECR token for connection 'docker_default': {FAILURE}",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_is_one_line_and_an_exception_can_be_sent_to_another_process(error: Exception, message: str) -> None:
    """Multiprocessing pickles exceptions; Celery, which may not pickle, builds them from their arguments."""
    assert str(error) == message
    for copy in (pickle.loads(pickle.dumps(error)), type(error)(*error.args)):  # noqa: S301 - our own
        assert (type(copy), str(copy), vars(copy)) == (type(error), message, vars(error))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Foo\n11-27 CRITICAL", r"Foo\n11-27 CRITICAL"),
        ("\x1b[2Jé", r"\x1b[2Jé"),
        ("a" * 50, "a" * 19 + "…"),
        ("\n" * 50, r"\n" * 9 + "\\…"),
        ("\udc80", r"\udc80"),
        ('"http://user:p@ss/w@host/"', '"http://***@host/"'),
        ("http://h/ or a@b", "http://h/ or a@b"),
    ],
)
def test_a_text_becomes_one_bounded_line_without_passwords(text: str, line: str) -> None:
    """It cannot forge a line of a log or control a terminal, and shows no password of a URL."""
    assert one_line(text, 20) == line
    assert one_line(line, 20) == line


@pytest.mark.parametrize("name", ["identity", "region", "code", "reason", "fix"])
def test_each_field_of_a_failure_is_one_bounded_line(name: str) -> None:
    """AWS, a proxy or a file may have written it, and it may have 200 kB."""
    started_at = time.perf_counter()
    failure = build_failure(**{name: "http://user:pw@host\x1b[2J\n2026-11-27 CRITICAL forged" + "://" * 70_000})

    assert time.perf_counter() - started_at < 1
    assert str(failure).isprintable()
    assert len(str(failure)) < 1200
    assert "pw" not in str(failure)


def test_a_failure_has_the_same_fields_in_json() -> None:
    assert build_failure().to_json() == {
        "identity": "a role",
        "region": "us-east-1",
        "code": "AccessDeniedException",
        "reason": "not allowed",
        "remedy": "Allow it.",
    }

from __future__ import annotations

import pickle
import time

import pytest

from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError, TokenError, one_line
from tests.unit.builders import build_failure

FAILURE = "AccessDeniedException: not allowed (identity: a role, region: us-east-1). Allow it."
MESSAGES = {
    ConfigurationError(path="connections.a", problem="is a list", fix="Write an object."): (
        "connections.a is a list. Write an object."
    ),
    TokenError(failure=build_failure()): FAILURE,
    ConnectionUnavailableError(conn_id="docker_default", failure=build_failure()): (
        f"Cannot get an ECR token for connection 'docker_default': {FAILURE}"
    ),
}


@pytest.mark.parametrize(("error", "message"), MESSAGES.items(), ids=lambda value: type(value).__name__)
def test_a_message_names_what_failed_and_why_and_the_fix(error: Exception, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_an_exception_can_be_sent_to_another_process(error: Exception) -> None:
    """Multiprocessing pickles exceptions; Celery, which may not pickle, builds them from their arguments."""
    copies = [pickle.loads(pickle.dumps(error)), type(error)(*error.args)]  # noqa: S301 - our own

    for copy in copies:
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_configuration_error_is_one_printable_line() -> None:
    """A key of the configuration cannot break the line or control a terminal."""
    error = ConfigurationError("connections.é\nb\x1b[31m", "is empty", "Write a string.")

    assert str(error) == r"connections.é\nb\x1b[31m is empty. Write a string."


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
    """AWS, a proxy or a file may have written it."""
    failure = build_failure(**{name: "http://user:pw@host\x1b[2J\n2026-11-27 CRITICAL forged" + "a" * 200_000})

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


def test_masking_a_long_text_takes_less_than_a_second() -> None:
    """AWS or a proxy may send 200 kB."""
    started_at = time.perf_counter()
    one_line("://" * 70_000, 100)

    assert time.perf_counter() - started_at < 1

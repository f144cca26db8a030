from __future__ import annotations

import pickle
import time

import pytest

from ecr_secrets_backend.errors import (
    ConfigurationError,
    ConnectionUnavailableError,
    TokenError,
    one_line,
)
from tests.unit.builders import build_failure

CONFIGURATION = ConfigurationError(path="connections.a", problem="is a list", fix="write an object")
MINT = TokenError(failure=build_failure())
UNAVAILABLE = ConnectionUnavailableError(conn_id="docker_default", failure=build_failure())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CONFIGURATION, "connections.a is a list; write an object"),
        (MINT, "AccessDeniedException: not allowed (identity: a role; region: us-east-1). Allow it."),
        (UNAVAILABLE, f"Connection 'docker_default' has no ECR token. {MINT}"),
    ],
)
def test_an_exception_tells_all_that_is_known(error: Exception, sentence: str) -> None:
    """Where it happened, what, why, and the remedy."""
    assert str(error) == sentence


@pytest.mark.parametrize("error", [CONFIGURATION, MINT, UNAVAILABLE])
def test_an_exception_survives_pickling(error: Exception) -> None:
    """Celery and multiprocessing carry exceptions between processes, however they were made."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", [CONFIGURATION, MINT])
def test_an_exception_can_be_made_anew_from_its_arguments(error: Exception) -> None:
    """As Celery does where it may not pickle."""
    assert vars(type(error)(*error.args)) == vars(error)


def test_a_configuration_error_is_one_line() -> None:
    """Whatever a key of the configuration holds, it neither breaks the line nor steers a terminal, and can be read."""
    error = ConfigurationError("connections.é\nb\x1b[31m", "is empty", "write a string")

    assert str(error) == r"connections.é\nb\x1b[31m is empty; write a string"


@pytest.mark.parametrize(
    ("text", "shown"),
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
def test_a_text_of_others_is_one_bounded_line_without_logins(text: str, shown: str) -> None:
    """It forges no line of a log, does not control a terminal, and holds no password of a URL."""
    assert one_line(text, 20) == shown
    assert one_line(shown, 20) == shown


@pytest.mark.parametrize("name", ["identity", "region", "code", "reason", "fix"])
def test_each_text_of_a_failure_is_one_bounded_line(name: str) -> None:
    """Whoever wrote it: it is logged, printed, and stored for the other processes of the host."""
    failure = build_failure(**{name: "http://user:pw@host\x1b[2J\n2026-11-27 CRITICAL forged" + "a" * 200_000})

    assert str(failure).isprintable()
    assert len(str(failure)) < 1200
    assert "pw" not in str(failure)


def test_masking_a_long_text_takes_no_time() -> None:
    """Of 200 kB that AWS or a proxy sent, a text is made in a moment."""
    started_at = time.perf_counter()
    one_line("://" * 70_000, 100)

    assert time.perf_counter() - started_at < 1

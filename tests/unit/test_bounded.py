from __future__ import annotations

import threading

import pytest

from ecr_secrets_backend.bounded import within


def test_what_is_done_in_time_is_returned() -> None:
    """As it is."""
    assert within(5, lambda: "done") == "done"


def test_what_fails_in_time_is_raised() -> None:
    """As it is."""
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_a_timeout_of_its_own_is_told_in_its_own_words() -> None:
    """It did not hang."""

    def fail() -> None:
        raise TimeoutError("the socket's")

    with pytest.raises(TimeoutError, match="the socket's"):
        within(5, fail)


@pytest.mark.timeout(10)
def test_what_hangs_is_not_waited_for() -> None:
    """It is left to itself."""
    done = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            within(0.01, lambda: done.wait(30))
    finally:
        done.set()

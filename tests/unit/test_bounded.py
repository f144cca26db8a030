from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from ecr_secrets_backend.bounded import start_thread, within


def test_a_result_in_time_is_returned() -> None:
    assert within(5, lambda: "done") == "done"


@pytest.mark.parametrize("error", [ZeroDivisionError("zero"), TimeoutError("the socket's")])
def test_an_exception_in_time_is_raised_as_it_was(error: Exception) -> None:
    """A timeout of the work is not mistaken for the timeout of the wait."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        within(5, fail)


@pytest.mark.timeout(10)
def test_work_that_hangs_raises_a_timeout() -> None:
    done = threading.Event()
    try:
        with pytest.raises(TimeoutError, match="no answer within 0 s"):
            within(0.01, lambda: done.wait(30))
    finally:
        done.set()


def test_a_process_that_can_start_no_thread_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    assert within(5, lambda: "done") == "done"


def test_a_cancelled_future_starts_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    future: Future[None] = Future()
    future.cancel()
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)

    start_thread(pytest.fail, future)

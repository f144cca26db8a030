from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from ecr_secrets_backend.bounded import start_thread, within


@pytest.mark.parametrize("error", [SystemExit("the work's"), TimeoutError("the socket's")])
def test_an_exception_in_time_is_raised_as_it_was(error: BaseException) -> None:
    """A timeout of the work is not mistaken for the timeout of the wait."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        within(5, fail)


def test_work_that_hangs_raises_a_timeout_and_ends_with_its_process() -> None:
    program = "import time; from ecr_secrets_backend.bounded import within; within(0.05, lambda: time.sleep(60))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)

    assert run.stderr.endswith("TimeoutError: no answer within 0 s\n")


def test_a_cancelled_future_starts_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    future: Future[None] = Future()
    future.cancel()
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)

    start_thread(pytest.fail, future)

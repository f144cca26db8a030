"""Daemon threads and timeouts for work that may hang: calls to AWS, name servers, credential programs, databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


def start_thread(work: Callable[[], Result], future: Future[Result]) -> None:
    """Run work in a daemon thread and set its result in a future, unless the future is cancelled first.

    The thread has the caller's context, from which Airflow's triggerer knows the trigger that a log line belongs to.
    If the process can start no thread, because it exits or has too many, the work runs in the calling thread.
    """

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the caller of future.result() handles it
                future.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="ecr-secrets-backend", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        run()


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Return the result of work. If it takes longer than ``seconds``, raise TimeoutError; the work goes on."""
    future: Future[Result] = Future()
    start_thread(work, future)
    wait([future], seconds)
    if future.done():
        return future.result()
    raise TimeoutError(f"no answer within {seconds:.0f} s")

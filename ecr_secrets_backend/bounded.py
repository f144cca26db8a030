"""Bounded waits for what may hang: AWS, name servers, credential programs, databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


def start_thread(work: Callable[[], Result], outcome: Future[Result]) -> None:
    """Run work in a daemon thread, for which no process waits, unless its outcome has been cancelled.

    The thread has the caller's context, by which Airflow's triggerer knows whose log a line belongs to. A process that
    is about to exit, or may have no more threads, does the work here instead.
    """

    def run() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                outcome.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="ecr-secrets-backend", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        run()


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Run work in a thread of its own and return its result, or raise TimeoutError; the work then goes on."""
    outcome: Future[Result] = Future()
    start_thread(work, outcome)
    wait([outcome], seconds)
    if outcome.done():
        return outcome.result()
    raise TimeoutError(f"there was no answer within {seconds:.0f} s")

"""What may hang is not waited for without end: AWS, name servers, credential programs, databases."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # Python's own from 3.11 on
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Do in a thread of its own what may hang, and wait for it for a bounded time.

    :param seconds: how long it is waited for; then it is left to itself
    :return: what it returns; what it raises is raised
    :raises TimeoutError: it goes on
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            outcome.set_exception(error)

    # A daemon, because a process need not wait for its end; in the context of the caller, because Airflow's triggerer
    # tells by it whose log a line belongs to.
    thread = threading.Thread(target=copy_context().run, args=(run,), name="ecr-secrets-backend", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the process ends, or may have no more threads
        run()
    try:
        return outcome.result(seconds)
    except FutureTimeoutError:
        if outcome.done():  # just now, or with a timeout of its own
            return outcome.result()
        raise too_late(seconds) from None


def too_late(seconds: float) -> TimeoutError:
    """Make the error that tells of having waited in vain."""
    return TimeoutError(f"there was no answer within {seconds:.0f} s")

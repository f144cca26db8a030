"""What may hang, and must not hang a command: name servers, credential programs, databases."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # Python's own from 3.11 on
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Do something for a bounded time.

    :param seconds: how long it is waited for; then it is left to itself
    :raises TimeoutError: it goes on; whatever else it raises is raised
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the waiting command's
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except FutureTimeoutError as error:
        raise TimeoutError from error

"""Lookups to be counted from outside, by strace: ``python -m tests.benchmarks.lookups``.

Each kind of lookup is done N times by one process and 2N times by another, both forked from one that has done all else.
What the second has done more is what N lookups do.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import Connection

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import Memory
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable


def lookups(kwargs: dict[str, Any]) -> dict[str, Callable[[Memory], object]]:
    """Return a lookup of each kind, which ends with a Connection as in a task."""
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(Connection)  # as Airflow does in a task
    backend.get_connection("docker_default")

    def first(layer: Memory) -> None:
        backend._logins._requests.clear()
        backend._cache._memory = layer
        backend.get_connection("docker_default")

    return {
        "unmapped": lambda _: backend.get_connection("no_such_id"),
        "in the process": lambda _: backend.get_connection("docker_default"),
        "in the host's cache": first,
    }


def in_child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    return pid


def repeat(look_up: Callable[[Memory], object], layers: list[Memory]) -> None:
    for layer in layers:
        look_up(layer)


def main() -> None:
    gc.disable()  # it would come into some of the processes only
    order = programs.order()
    kinds = lookups(order["kwargs"])
    once, twice = ([Memory() for _ in range(times)] for times in (order["times"], 2 * order["times"]))
    for look_up in kinds.values():
        look_up(Memory())  # the first of all imports, and makes caches
    programs.report(
        {
            kind: [in_child(partial(repeat, look_up, layers)) for layers in (once, twice)]
            for kind, look_up in kinds.items()
        }
    )


if __name__ == "__main__":
    main()

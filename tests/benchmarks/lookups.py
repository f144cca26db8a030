"""Make lookups for strace to count: ``python -m tests.benchmarks.lookups``.

One process makes N lookups of a kind and another 2N; both are forked after everything else is done. So N lookups make
the difference between them.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from typing import TYPE_CHECKING

from ecr_secrets_backend.cache import Memory
from tests.benchmarks.task_backend import CONN_ID, build_backend
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable


def kinds_of_lookups(cache_dir: str) -> dict[str, Callable[[Memory], object]]:
    """Return the lookups; each takes an empty memory, which only a lookup in the host's cache needs."""
    backend = build_backend(cache_dir=cache_dir)
    backend.get_connection(CONN_ID)

    def look_up_in_host_cache(memory: Memory) -> None:
        backend._logins._resolved.clear()
        backend._logins._cache._memory = memory
        backend.get_connection(CONN_ID)

    return {
        "ID not mapped": lambda _: backend.get_connection("no_such_id"),
        "token in memory": lambda _: backend.get_connection(CONN_ID),
        "token in the host's cache": look_up_in_host_cache,
    }


def run_in_child(work: Callable[[], object]) -> int:
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


def repeat(look_up: Callable[[Memory], object], memories: list[Memory]) -> None:
    for memory in memories:
        look_up(memory)


def main() -> None:
    gc.disable()  # else it runs in some of the processes only
    order = programs.order()
    kinds = kinds_of_lookups(order["cache_dir"])
    once, twice = ([Memory() for _ in range(times)] for times in (order["times"], 2 * order["times"]))
    for look_up in kinds.values():
        look_up(Memory())  # the first lookup imports modules and fills caches
    programs.report(
        {
            kind: [run_in_child(partial(repeat, look_up, memories)) for memories in (once, twice)]
            for kind, look_up in kinds.items()
        }
    )


if __name__ == "__main__":
    main()

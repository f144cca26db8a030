"""Lookups to be counted from outside, by strace or valgrind: ``python -m tests.benchmarks.lookups``.

Each kind of lookup is done N times by one process and 2N times by another, both forked from one that has done all else.
What the second has done more is what N lookups do.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.token import EcrToken

Kinds = dict[str, "Callable[[Memory], object]"]


def backend_lookups(kwargs: dict[str, Any]) -> Kinds:
    """The whole way, with Airflow's Connection at its end."""
    from airflow.sdk import Connection  # noqa: PLC0415 - the other way does without Airflow, which takes minutes to count

    from ecr_secrets_backend import EcrSecretsBackend  # noqa: PLC0415

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


def cache_lookups(kwargs: dict[str, Any]) -> Kinds:
    """The way without Airflow: who asks, and the cache."""
    settings = Settings.parse(kwargs)
    mapped = settings.connections["docker_default"]

    def mint() -> EcrToken:
        raise AssertionError("the token is there")

    def look_up(layer: Memory) -> None:
        cache = TokenCache(HostStore(settings.cache_dir), settings.refresh_before, layer)
        cache.get(mapped.identity.in_environment(os.environ), mint)

    warm = Memory()
    look_up(warm)
    cache = TokenCache(HostStore(settings.cache_dir), settings.refresh_before, warm)
    identity = mapped.identity.in_environment(os.environ)
    return {"in the process": lambda _: cache.get(identity, mint), "in the host's cache": look_up}


WAYS = {"backend": backend_lookups, "cache": cache_lookups}


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
    kinds = WAYS[order["way"]](order["kwargs"])
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

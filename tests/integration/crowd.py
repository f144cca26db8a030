"""A crowd of processes that look connections up at the same moment."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


@dataclass(frozen=True)
class Lookup:
    """
    One lookup.

    :param seconds: how long it took
    :param token: a digest of the token, or the error
    :param cpu: the seconds of CPU that all lookups of its process took
    """

    seconds: float
    token: str
    cpu: float = 0.0


def crowd(
    kwargs: dict[str, Any],
    *,
    processes: int,
    threads: int,
    start_method: Literal["fork", "spawn"] = "fork",
    layer: Literal["backend", "cache"] = "backend",
) -> list[Lookup]:
    """
    Let each thread of each process look up one of the connections, all at once, and return the lookups in no order.

    :param kwargs: the backend's
    :param layer: the caller's entry: the backend, or the cache below it, which needs no Airflow
    """
    options = {"kwargs": kwargs, "processes": processes, "threads": threads, "layer": layer}
    return programs.call(_run, start_method=start_method, **options)


def _backend(kwargs: dict[str, Any]) -> Callable[[str], str]:
    # Not at the top: a spawned process would import all of Airflow, which is 100 MB and a second of CPU for each.
    from airflow.sdk import Connection  # noqa: PLC0415

    from ecr_secrets_backend import EcrSecretsBackend  # noqa: PLC0415

    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(Connection)  # as Airflow does in a task
    return lambda conn_id: str(backend.get_connection(conn_id).password)


def _cache(kwargs: dict[str, Any]) -> Callable[[str], str]:
    settings = Settings.parse(kwargs)
    cache = TokenCache(HostStore(settings.cache_dir), settings.refresh_before)

    def look_up(conn_id: str) -> str:
        identity = settings.connections[conn_id].identity.in_environment(os.environ)
        return cache.get(identity, partial(aws.request_token, identity)).token.password

    return look_up


LAYERS = {"backend": _backend, "cache": _cache}


def _look_up(look_up: Callable[[str], str], conn_id: str, lookups: list[Lookup]) -> None:
    started_at = time.monotonic()
    try:
        token = sha256(look_up(conn_id).encode()).hexdigest()
    except Exception as error:  # noqa: BLE001 - the test judges it
        token = repr(error)
    lookups.append(Lookup(time.monotonic() - started_at, token))


def _process(layer: str, kwargs: dict[str, Any], threads: int, barrier: Barrier, results: SimpleQueue[Any]) -> None:
    look_up = LAYERS[layer](kwargs)
    conn_ids = list(kwargs["connections"])
    lookups: list[Lookup] = []
    callers = [
        threading.Thread(target=_look_up, args=(look_up, conn_ids[number % len(conn_ids)], lookups))
        for number in range(threads)
    ]
    barrier.wait()
    began = time.process_time()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    cpu = time.process_time() - began
    barrier.wait()  # the end of a spawned process costs more than its lookups
    results.put([replace(lookup, cpu=cpu) for lookup in lookups])
    for thread in threading.enumerate():
        if thread.daemon:  # a renewal that is still running, as in a task that goes on
            thread.join()


def _run(kwargs: dict[str, Any], processes: int, threads: int, start_method: str, layer: str) -> list[Lookup]:
    LAYERS[layer](kwargs)  # a forked process finds everything imported, as a task does
    context = multiprocessing.get_context(start_method)
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    arguments = (layer, kwargs, threads, barrier, results)
    crowd = [context.Process(target=_process, args=arguments) for _ in range(processes)]  # type: ignore[attr-defined]
    for process in crowd:
        process.start()
    lookups = [lookup for _ in crowd for lookup in results.get()]
    for process in crowd:
        process.join()
    return lookups

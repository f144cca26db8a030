"""A crowd of processes that look connections up at the same moment."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import partial
from hashlib import sha256
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


class Lookup(NamedTuple):
    """
    One lookup.

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
) -> list[Lookup]:
    """
    Let each thread of each process look up one of the connections, all at once, and return the lookups in no order.

    A spawned process looks up in the cache below the backend, which needs no Airflow.

    :param kwargs: the backend's
    """
    return programs.call(_run, kwargs=kwargs, processes=processes, threads=threads, start_method=start_method)


def _backend(kwargs: dict[str, Any]) -> Callable[[str], str]:
    # Not at the top: a spawned process would import all of Airflow, which is 100 MB and a second of CPU for each.
    from ecr_secrets_backend import EcrSecretsBackend  # noqa: PLC0415
    from tests.airflow_version import put_into_task  # noqa: PLC0415

    backend = EcrSecretsBackend(**kwargs)
    put_into_task(backend)
    return lambda conn_id: str(backend.get_connection(conn_id).password)


def _cache(kwargs: dict[str, Any]) -> Callable[[str], str]:
    settings = Settings.parse(kwargs)
    cache = TokenCache(HostStore(settings.cache_dir), settings.refresh_before)

    def look_up(conn_id: str) -> str:
        identity = settings.connections[conn_id].identity.in_environment(os.environ)
        return cache.get(identity, partial(aws.request_token, identity)).token.password

    return look_up


LAYERS = {"fork": _backend, "spawn": _cache}


def _process(method: str, kwargs: dict[str, Any], threads: int, barrier: Barrier, results: SimpleQueue[Any]) -> None:
    look_up = LAYERS[method](kwargs)
    lookups: list[Lookup] = []

    def look_up_once(conn_id: str) -> None:
        started_at = time.monotonic()
        try:
            token = sha256(look_up(conn_id).encode()).hexdigest()
        except Exception as error:  # noqa: BLE001 - the test judges it
            token = repr(error)
        lookups.append(Lookup(time.monotonic() - started_at, token))

    conn_ids = cycle(kwargs["connections"])
    callers = [threading.Thread(target=look_up_once, args=(next(conn_ids),)) for _ in range(threads)]
    barrier.wait()
    began = time.process_time()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    cpu = time.process_time() - began
    barrier.wait()  # the end of a spawned process costs more than its lookups
    results.put([lookup._replace(cpu=cpu) for lookup in lookups])
    for thread in threading.enumerate():
        if thread.daemon:  # a renewal that is still running, as in a task that goes on
            thread.join()


def _run(kwargs: dict[str, Any], processes: int, threads: int, start_method: str) -> list[Lookup]:
    LAYERS[start_method](kwargs)  # a forked process finds everything imported, as a task does
    context: Any = multiprocessing.get_context(start_method)
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    arguments = (start_method, kwargs, threads, barrier, results)
    crowd = [context.Process(target=_process, args=arguments) for _ in range(processes)]
    for process in crowd:
        process.start()
    lookups = [lookup for _ in crowd for lookup in results.get()]
    for process in crowd:
        process.join()
    return lookups

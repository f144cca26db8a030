"""A crowd of processes that look connections up at once: ``python -m tests.integration.crowd``.

A program of its own, so that the processes are forked from one that has no other threads.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
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
    :param cpu: the seconds of CPU that the lookups of its process took in all
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
    room: Literal["backend", "cache"] = "backend",
) -> list[Lookup]:
    """Let every thread of every process look one of the connections up, all at the same moment.

    A process that mints in the background lives on until it has done so, as a task's process would.

    :param kwargs: the backend's
    :param processes: how many
    :param threads: how many in each
    :param start_method: how the processes come to be
    :param room: where the lookup begins: at the backend, or one room lower, which does without Airflow
    :return: the lookups, in no order
    """
    lookups = programs.run(
        __name__, kwargs=kwargs, processes=processes, threads=threads, start_method=start_method, room=room
    )
    return [Lookup(**lookup) for lookup in lookups]


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

    def lookup(conn_id: str) -> str:
        identity = settings.connections[conn_id].identity.in_environment(os.environ)
        return cache.get(identity, partial(aws.request_token, identity))[0].password

    return lookup


ROOMS = {"backend": _backend, "cache": _cache}


def _thread(lookup: Callable[[str], str], conn_id: str, lookups: list[Lookup]) -> None:
    started_at = time.monotonic()
    try:
        token = sha256(lookup(conn_id).encode()).hexdigest()
    except Exception as error:  # noqa: BLE001 - the test judges it
        token = repr(error)
    lookups.append(Lookup(time.monotonic() - started_at, token))


def _process(room: str, kwargs: dict[str, Any], threads: int, everybody: Barrier, results: SimpleQueue[Any]) -> None:
    lookup = ROOMS[room](kwargs)
    conn_ids = list(kwargs["connections"])
    lookups: list[Lookup] = []
    workers = [
        threading.Thread(target=_thread, args=(lookup, conn_ids[number % len(conn_ids)], lookups))
        for number in range(threads)
    ]
    everybody.wait()
    began = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cpu = time.process_time() - began
    everybody.wait()  # the end of a spawned process costs more than its lookups
    results.put([asdict(replace(lookup, cpu=cpu)) for lookup in lookups])
    for thread in threading.enumerate():
        if thread.daemon:  # one that mints in the background
            thread.join()


def main() -> None:
    order = programs.order()
    ROOMS[order["room"]](order["kwargs"])  # so that a forked process finds all that it needs imported, as a task does
    context = multiprocessing.get_context(order["start_method"])
    everybody, results = context.Barrier(order["processes"]), context.SimpleQueue()
    arguments = (order["room"], order["kwargs"], order["threads"], everybody, results)
    crowd = [context.Process(target=_process, args=arguments) for _ in range(order["processes"])]
    for process in crowd:
        process.start()
    lookups = [lookup for _ in crowd for lookup in results.get()]
    for process in crowd:
        process.join()
    programs.report(lookups)


if __name__ == "__main__":
    main()

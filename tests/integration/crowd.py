"""A crowd of processes that look connections up at once: ``python -m tests.integration.crowd``, with JSON in and out.

A program of its own, so that the processes are forked from one that has no other threads.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import airflow.sdk

from ecr_secrets_backend import EcrSecretsBackend

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier


@dataclass(frozen=True)
class Lookup:
    """One lookup: how long it took, in seconds, and a digest of the token, or the error."""

    seconds: float
    token: str


def crowd(kwargs: dict[str, Any], *, processes: int, threads: int, start_method: str = "fork") -> list[Lookup]:
    """Let every thread of every process look one of the connections up, all at the same moment.

    :param kwargs: the backend's
    :param processes: how many
    :param threads: how many in each
    :param start_method: ``fork`` or ``spawn``
    :return: the lookups, in no order
    """
    order = {"kwargs": kwargs, "processes": processes, "threads": threads, "start_method": start_method}
    command = [sys.executable, "-m", "tests.integration.crowd", json.dumps(order)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Lookup(**lookup) for lookup in json.loads(done.stdout.splitlines()[-1])]


def _thread(backend: EcrSecretsBackend, conn_id: str, lookups: list[Lookup]) -> None:
    started_at = time.monotonic()
    try:
        token = sha256(backend.get_connection(conn_id).password.encode()).hexdigest()
    except Exception as error:  # noqa: BLE001 - the test judges it
        token = repr(error)
    lookups.append(Lookup(time.monotonic() - started_at, token))


def _process(kwargs: dict[str, Any], threads: int, start: Barrier, results: Queue[list[Lookup]]) -> None:
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(airflow.sdk.Connection)
    conn_ids = list(kwargs["connections"])
    lookups: list[Lookup] = []
    workers = [
        threading.Thread(target=_thread, args=(backend, conn_ids[number % len(conn_ids)], lookups))
        for number in range(threads)
    ]
    start.wait()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put(lookups)


def main() -> None:
    order = json.loads(sys.argv[1])
    context = multiprocessing.get_context(order["start_method"])
    start, results = context.Barrier(order["processes"]), context.Queue()
    crowd = [
        context.Process(target=_process, args=(order["kwargs"], order["threads"], start, results))
        for _ in range(order["processes"])
    ]
    for process in crowd:
        process.start()
    lookups = [lookup for _ in crowd for lookup in results.get()]
    for process in crowd:
        process.join()
    print(json.dumps([asdict(lookup) for lookup in lookups]))  # noqa: T201 - its output


if __name__ == "__main__":
    main()

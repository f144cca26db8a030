"""Lookups within one process that has looked up before."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import timeit
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow.sdk import Connection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from ecr_secrets_backend import EcrSecretsBackend
from tests.benchmarks.results import Findings, Goal, Row, interleaved, medians, shown
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
BEHIND = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
ROUNDS = 31
LOOKUPS = 2_000
THREADS = 64
THREAD_ROUNDS = 15
THREAD_LOOKUPS = 64 * 500
MANY, FEWER = 10_000, 1_000
BUILD_ROUNDS = 15


class EmptyBackend:
    """What a lookup costs that does nothing."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> None:
        pass


def measure() -> Findings:
    with AwsStandIn.running() as aws, tempfile.TemporaryDirectory() as cache_dir:
        stored = json.dumps({"conn_type": "docker", "host": HOST, "login": "AWS", "password": "x" * 2500})
        with patch.dict(os.environ, {**aws.environment(), "AIRFLOW_CONN_STORED": stored}):
            build = partial(_backend, cache_dir)
            return Findings([*_lookups(build), *_many_connections(build), _threads(build)])


def _backend(cache_dir: str, connections: int = 1, **kwargs: Any) -> Any:
    mapped = {f"docker_{number}": f"{number:012}.dkr.ecr.us-east-1.amazonaws.com" for number in range(1, connections)}
    backend = EcrSecretsBackend(connections={"docker_default": HOST, **mapped}, cache_dir=cache_dir, **kwargs)
    backend._set_connection_class(Connection)  # as Airflow does in a task
    return backend


def _cost(look_up: Callable[[str], object], conn_id: str) -> Callable[[], float]:
    """Give a measure of the seconds that one lookup takes, what it takes to call it included."""
    timer = timeit.Timer(f"look_up({conn_id!r})", globals={"look_up": look_up})
    return lambda: timer.timeit(LOOKUPS) / LOOKUPS


def _lookups(build: Callable[..., Any]) -> list[Row]:
    ours, environment, empty = build(), EnvironmentVariablesBackend(), EmptyBackend()
    environment._set_connection_class(Connection)
    chained = build(fallback_backends=[{"backend": BEHIND}])
    ours.get_connection("docker_default")
    nothing, miss, unmapped, handed_on, hit, served = medians(
        interleaved(
            ROUNDS,
            _cost(empty.get_connection, "no_such_id"),
            _cost(environment.get_connection, "no_such_id"),
            _cost(ours.get_connection, "no_such_id"),
            _cost(chained.get_connection, "no_such_id"),
            _cost(environment.get_connection, "stored"),
            _cost(ours.get_connection, "docker_default"),
        )
    )
    over = Goal("µs over an empty method", (unmapped - nothing) * 1e6, 0.2)
    return [
        Row(
            "unmapped lookup",
            shown(unmapped),
            "environment variables: a miss",
            shown(miss),
            (Goal("ratio", unmapped / miss, 1 / 200), over),
        ),
        Row("unmapped lookup, which another backend misses", shown(handed_on), "that backend alone", shown(miss)),
        Row(
            "mapped, token in the process",
            shown(served),
            "environment variables: a hit, from JSON",
            shown(hit),
            (Goal("ratio", served / hit, 1 / 5),),
        ),
    ]


def _many_connections(build: Callable[..., Any]) -> list[Row]:
    one, many = build(), build(connections=MANY)
    for backend in (one, many):
        backend.get_connection("docker_default")
    alone, among = medians(
        interleaved(ROUNDS, _cost(one.get_connection, "docker_default"), _cost(many.get_connection, "docker_default"))
    )
    fewer_time, many_time = medians(
        interleaved(
            BUILD_ROUNDS,
            lambda: timeit.timeit(lambda: build(connections=FEWER), number=1),
            lambda: timeit.timeit(lambda: build(connections=MANY), number=1),
        )
    )
    growth = Goal("growth over linear", many_time / fewer_time / (MANY / FEWER), 1.25)
    return [
        Row(
            f"lookup among {MANY:,} mapped connections",
            shown(among),
            "1 mapped connection",
            shown(alone),
            (Goal("ratio", among / alone, 1.1),),
        ),
        Row(
            f"building with {MANY:,} mapped connections",
            shown(many_time),
            f"{FEWER:,} mapped connections",
            shown(fewer_time),
            (growth, Goal("ms", many_time * 1e3, 150)),
        ),
    ]


def _threads(build: Callable[[], Any]) -> Row:
    """Compare the same number of lookups by one thread and by many, which the GIL lets run one at a time."""
    backend = build()
    backend.get_connection("docker_default")

    def seconds(threads: int) -> float:
        everybody = threading.Barrier(threads + 1)

        def work() -> None:
            everybody.wait()
            for _ in range(THREAD_LOOKUPS // threads):
                backend.get_connection("docker_default")

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()

        def run() -> None:
            everybody.wait()
            for worker in workers:
                worker.join()

        return timeit.timeit(run, number=1)

    one, many = medians(interleaved(THREAD_ROUNDS, lambda: seconds(1), lambda: seconds(THREADS)))
    return Row(
        f"{THREADS} threads on a warm backend",
        f"{THREAD_LOOKUPS / many:,.0f}/s",
        "1 thread, as many lookups in all",
        f"{THREAD_LOOKUPS / one:,.0f}/s",
        (Goal("time, ratio", many / one, 1.1),),
    )

"""Measure repeated lookups within one process."""

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

from tests.benchmarks.results import Goal, Results, Row, compare, interleave, medians, with_unit
from tests.benchmarks.task_backend import CONN_ID, HOST, build_backend
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

FALLBACK = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
ROUNDS = 31
LOOKUPS = 2_000
THREADS = 64
THREAD_ROUNDS = 15
THREAD_LOOKUPS = 64 * 500
MANY, FEWER = 10_000, 1_000
BUILD_ROUNDS = 15


class EmptyBackend:
    """A backend that does nothing."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> None:
        pass


def measure() -> Results:
    with AwsStandIn.running() as aws, tempfile.TemporaryDirectory() as cache_dir:
        stored = json.dumps({"conn_type": "docker", "host": HOST, "login": "AWS", "password": "x" * 2500})
        with patch.dict(os.environ, {**aws.environment(), "AIRFLOW_CONN_STORED": stored}):
            build = partial(build_backend, cache_dir=cache_dir)
            return Results([*_lookups(build), *_many_connections(build), _threads(build)])


def _timer(backend: Any, conn_id: str) -> Callable[[], float]:
    """Return a function that measures the seconds of one lookup."""
    timer = timeit.Timer(f"look_up({conn_id!r})", globals={"look_up": backend.get_connection})
    return lambda: timer.timeit(LOOKUPS) / LOOKUPS


def _lookups(build: Callable[..., Any]) -> list[Row]:
    ours, environment = build(), EnvironmentVariablesBackend()
    environment._set_connection_class(Connection)
    with_fallback = build(fallback_backends=[{"backend": FALLBACK}])
    ours.get_connection(CONN_ID)
    nothing, environment_miss, miss, fallback_miss, environment_hit, hit = medians(
        interleave(
            ROUNDS,
            _timer(EmptyBackend(), "no_such_id"),
            _timer(environment, "no_such_id"),
            _timer(ours, "no_such_id"),
            _timer(with_fallback, "no_such_id"),
            _timer(environment, "stored"),
            _timer(ours, CONN_ID),
        )
    )
    return [
        compare(
            "repeated lookup, token in memory",
            hit,
            "environment variable",
            environment_hit,
            Goal(100 * hit / environment_hit, 20, "% of its time"),
        ),
        compare(
            "lookup of an ID that is not mapped",
            miss,
            "environment variable",
            environment_miss,
            Goal(100 * miss / environment_miss, 0.5, "% of its time"),
            Goal((miss - nothing) * 1e6, 0.2, "µs over an empty method"),
        ),
        Row(
            "lookup that a fallback backend does not find",
            with_unit(fallback_miss),
            "the fallback backend alone",
            with_unit(environment_miss),
        ),
    ]


def _many_connections(build: Callable[..., Any]) -> list[Row]:
    def build_with(count: int) -> Any:
        mapped = {f"docker_{number}": f"{number:012}.dkr.ecr.us-east-1.amazonaws.com" for number in range(1, count)}
        return build(connections={CONN_ID: HOST, **mapped})

    backends = [build_with(count) for count in (1, MANY)]
    for backend in backends:
        backend.get_connection(CONN_ID)
    one, among_many = medians(interleave(ROUNDS, *(_timer(backend, CONN_ID) for backend in backends)))
    fewer_time, many_time = medians(
        interleave(
            BUILD_ROUNDS,
            lambda: timeit.timeit(lambda: build_with(FEWER), number=1),
            lambda: timeit.timeit(lambda: build_with(MANY), number=1),
        )
    )
    return [
        Row(
            f"repeated lookup, {MANY:,} mapped connections",
            with_unit(among_many),
            "1 mapped connection",
            with_unit(one),
            (Goal(100 * among_many / one, 110, "% of its time"),),
        ),
        Row(
            f"start of the backend, {MANY:,} mapped connections",
            with_unit(many_time),
            f"{FEWER:,} mapped connections",
            with_unit(fewer_time),
            (
                Goal(many_time / fewer_time, 12.5, "times its time"),
                Goal(many_time * 1e3, 150, "ms"),
            ),
        ),
    ]


def _threads(build: Callable[[], Any]) -> Row:
    """Compare as many lookups in one thread and in many, of which the GIL lets one run at a time."""
    backend = build()
    backend.get_connection(CONN_ID)

    def seconds(threads: int) -> float:
        start = threading.Barrier(threads + 1)

        def work() -> None:
            start.wait()
            for _ in range(THREAD_LOOKUPS // threads):
                backend.get_connection(CONN_ID)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()

        def run() -> None:
            start.wait()
            for worker in workers:
                worker.join()

        return timeit.timeit(run, number=1)

    one, many = medians(interleave(THREAD_ROUNDS, lambda: seconds(1), lambda: seconds(THREADS)))
    return Row(
        f"repeated lookups in {THREADS} threads",
        f"{THREAD_LOOKUPS / many:,.0f}/s",
        "as many in 1 thread",
        f"{THREAD_LOOKUPS / one:,.0f}/s",
        (Goal(100 * many / one, 110, "% of its time"),),
    )

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

from tests.benchmarks.lookup import CONN_ID, HOST, build_backend
from tests.benchmarks.results import Goal, Results, Row, compare, measure_pair
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

FALLBACK = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
ROUNDS = 31
LOOKUPS = 2_000
THREADS = 64
THREAD_LOOKUPS = 64 * 500
MANY, FEWER = 10_000, 1_000
SLOW_ROUNDS = 15


class EmptyBackend:
    """A backend that does nothing."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> None:
        pass


def measure() -> Results:
    with AwsStandIn.running() as aws, tempfile.TemporaryDirectory() as cache_dir:
        stored = json.dumps({"conn_type": "docker", "host": HOST, "login": "AWS", "password": "x" * 2500})
        with patch.dict(os.environ, {**aws.environment(), "AIRFLOW_CONN_STORED": stored}):
            build = partial(build_backend, cache_dir=cache_dir)
            return [*_lookups(build), *_many_connections(build), _threads(build)], {}


def _timer(backend: Any, conn_id: str = CONN_ID) -> Callable[[], float]:
    """Return a function that measures the seconds of one lookup, after the first."""
    timer = timeit.Timer(f"look_up({conn_id!r})", globals={"look_up": backend.get_connection})
    backend.get_connection(conn_id)
    return lambda: timer.timeit(LOOKUPS) / LOOKUPS


def _lookups(build: Callable[..., Any]) -> list[Row]:
    environment, unmapped = EnvironmentVariablesBackend(), "no_such_id"
    environment._set_connection_class(Connection)
    with_fallback = build(fallback_backends=[{"backend": FALLBACK}])
    hit = measure_pair(ROUNDS, _timer(build()), _timer(environment, "stored"))
    miss = measure_pair(ROUNDS, _timer(build(), unmapped), _timer(environment, unmapped))
    empty = measure_pair(ROUNDS, _timer(build(), unmapped), _timer(EmptyBackend(), unmapped))
    missed_by_all = measure_pair(ROUNDS, _timer(with_fallback, unmapped), _timer(environment, unmapped))
    hit_goal = Goal(hit.percent, 20, "% of its time")
    over_empty = Goal((empty.ours - empty.theirs) * 1e6, 0.2, "µs over an empty method")
    miss_goals = (Goal(miss.percent, 0.5, "% of its time"), over_empty)
    return [
        compare("repeated lookup, token in memory", "environment variable", hit, hit_goal, on_chart=True),
        compare("lookup of an ID that is not mapped", "environment variable", miss, *miss_goals, on_chart=True),
        compare("lookup that a fallback backend does not find", "the fallback backend alone", missed_by_all),
    ]


def _many_connections(build: Callable[..., Any]) -> list[Row]:
    def build_with(count: int) -> Any:
        mapped = {f"docker_{number}": f"{number:012}.dkr.ecr.us-east-1.amazonaws.com" for number in range(1, count)}
        return build(connections={CONN_ID: HOST, **mapped})

    lookup = measure_pair(ROUNDS, _timer(build_with(MANY)), _timer(build_with(1)))
    start = measure_pair(SLOW_ROUNDS, *(partial(_seconds, partial(build_with, count)) for count in (MANY, FEWER)))
    lookup_goal = Goal(lookup.percent, 110, "% of its time")
    start_goals = (Goal(start.percent / 100, 12.5, "times its time"), Goal(start.ours * 1e3, 150, "ms"))
    what = f"{MANY:,} mapped connections"
    return [
        compare(f"repeated lookup, {what}", "1 mapped connection", lookup, lookup_goal),
        compare(f"start of the backend, {what}", f"{FEWER:,} mapped connections", start, *start_goals),
    ]


def _seconds(work: Callable[[], object]) -> float:
    return timeit.timeit(work, number=1)


def _threads(build: Callable[[], Any]) -> Row:
    """Compare as many lookups in one thread and in many, of which the GIL lets one run at a time."""
    backend = build()
    backend.get_connection(CONN_ID)

    def measure_in(count: int) -> float:
        start = threading.Barrier(count + 1)

        def work() -> None:
            start.wait()
            for _ in range(THREAD_LOOKUPS // count):
                backend.get_connection(CONN_ID)

        def run() -> None:
            start.wait()
            for thread in threads:
                thread.join()

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        return _seconds(run)

    pair = measure_pair(SLOW_ROUNDS, partial(measure_in, THREADS), partial(measure_in, 1))
    many, one = (f"{THREAD_LOOKUPS / seconds:,.0f}/s" for seconds in pair)
    goal = Goal(pair.percent, 110, "% of its time")
    return Row(f"repeated lookups in {THREADS} threads", many, "as many in 1 thread", one, (goal,))

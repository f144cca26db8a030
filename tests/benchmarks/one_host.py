"""Count the AWS calls of one host: 1,000 tasks during three token lifetimes, and many processes with an empty cache."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.benchmarks.results import Goal, Results, Row, with_unit
from tests.benchmarks.task_backend import CONN_ID, HOST
from tests.integration import programs
from tests.integration.crowd import Lookup, crowd
from tests.stand_ins.aws import AwsStandIn, Delay

TASKS, LIFETIMES = 1000, 3
LIFETIME_SECONDS = 6.0  # stands for twelve hours
HOURS = 12
#: Longer than the tenth of a lifetime in which such a short-lived token is too old to serve.
REFRESH_BEFORE_SECONDS = 0.15 * LIFETIME_SECONDS
#: A refresh job that runs every eleven hours.
JOB_PERIOD_SECONDS = LIFETIME_SECONDS * 11 / HOURS
PROCESSES, THREADS, REQUEST_SECONDS = 200, 4, 1.0
CROWD_ROUNDS = 3


def measure() -> Results:
    with AwsStandIn.running(token_lifetime=LIFETIME_SECONDS) as aws, patch.dict(os.environ, aws.environment()):
        rows = _tasks(aws)
    with AwsStandIn.running() as aws, patch.dict(os.environ, aws.environment()):
        aws.script(Delay(REQUEST_SECONDS))
        row, samples = _crowd(aws)
    return Results([*rows, row], {"crowd": samples})


def _tasks(aws: AwsStandIn) -> list[Row]:
    ours, memory_only = (_run_with_backend(aws, cache) for cache in ("host", "process"))
    job, refused_job = (_run_with_job(aws, refused_run) for refused_run in (None, 2))
    lifetimes = round(ours["seconds"] / LIFETIME_SECONDS)
    what = f"{TASKS:,} tasks, {lifetimes} token lifetimes"
    goals = (Goal(ours["calls"], lifetimes + 1, "AWS calls"), Goal(ours["failed"], 0, "failed lookups"))
    alternatives = {
        "cache in memory only": memory_only,
        "refresh job every 11 h": job,
        "the same, one run refused": refused_job,
    }
    return [
        Row(what, _describe(ours), alternative, _describe(result), () if number else goals)
        for number, (alternative, result) in enumerate(alternatives.items())
    ]


def _describe(result: dict[str, Any]) -> str:
    expired = result["expired_seconds"] / LIFETIME_SECONDS * HOURS
    hours = f", {expired:.1f} h expired" if expired else ""
    return f"{result['calls']:,} AWS calls, {result['failed']} failed lookups{hours}"


def _run_with_backend(aws: AwsStandIn, cache: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache_dir:
        return _run(aws, kwargs={"refresh_before": REFRESH_BEFORE_SECONDS, "cache": cache, "cache_dir": cache_dir})


def _run_with_job(aws: AwsStandIn, refused_run: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stored = str(Path(folder, "stored"))
        return _run(aws, job={"stored": stored, "period": JOB_PERIOD_SECONDS, "refused_run": refused_run})


def _run(aws: AwsStandIn, **order: Any) -> dict[str, Any]:
    aws.reset()
    seconds = LIFETIMES * LIFETIME_SECONDS
    result = programs.run("tests.benchmarks.tasks", url=aws.url, seconds=seconds, tasks=TASKS, **order)
    return {**result, "calls": len(aws.calls())}


def _crowd(aws: AwsStandIn) -> tuple[Row, dict[str, list[float]]]:
    alone, slowest, cpu_shares = [], [], []
    samples: dict[str, list[float]] = {}
    for _ in range(CROWD_ROUNDS):
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as cache_dir:
            alone += [lookup.seconds for lookup in _look_up_at_once(empty, processes=1, threads=1)]
            calls_before = len(aws.calls())
            cold = _look_up_at_once(cache_dir, processes=PROCESSES, threads=THREADS)
            calls = len(aws.calls()) - calls_before
            warm = _look_up_at_once(cache_dir, processes=PROCESSES, threads=THREADS)
        samples = {
            name: [round(lookup.seconds, 4) for lookup in lookups]
            for name, lookups in (("empty cache", cold), ("token in the host's cache", warm))
        }
        slowest.append(max(lookup.seconds for lookup in cold))
        # Medians leave out the process that calls AWS. With a token in the cache, a process does all but wait.
        cpu, cpu_without_wait = (statistics.median(lookup.cpu for lookup in lookups) for lookups in (cold, warm))
        cpu_shares.append((cpu - cpu_without_wait) / statistics.median(lookup.seconds for lookup in cold))
        assert calls == 1
    request = statistics.median(alone)
    row = Row(
        f"slowest of {PROCESSES} processes x {THREADS} threads, empty cache",
        with_unit(statistics.median(slowest)),
        "one process alone",
        with_unit(request),
        (
            Goal(statistics.median(slowest) / request, 2, "times its time"),
            Goal(100 * statistics.median(cpu_shares), 5, "% CPU while it waits"),
        ),
    )
    return row, samples


def _look_up_at_once(cache_dir: str, *, processes: int, threads: int) -> list[Lookup]:
    return crowd({"connections": {CONN_ID: HOST}, "cache_dir": cache_dir}, processes=processes, threads=threads)

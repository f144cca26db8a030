"""What one host asks of AWS: 1,000 tasks through three token lives, and a crowd on a cold cache."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.benchmarks.results import Findings, Goal, Row, shown
from tests.integration import programs
from tests.integration.crowd import Lookup, crowd
from tests.stand_ins.aws import AwsStandIn, Delay

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
TASKS, LIVES = 1000, 3
LIFETIME_SECONDS = 6.0  # plays the twelve hours
HOURS = 12
#: So much of a life before its end a token is renewed; above the tenth in which such a short-lived one counts as dead.
REFRESH_PART = 0.15
#: A refresh job that runs every eleven hours.
JOB_PERIOD_SECONDS = LIFETIME_SECONDS * 11 / HOURS
PROCESSES, THREADS, REQUEST_SECONDS = 200, 4, 1.0
CROWD_ROUNDS = 3


def measure() -> Findings:
    with AwsStandIn.running(token_lifetime=LIFETIME_SECONDS) as aws, patch.dict(os.environ, aws.environment()):
        tasks = _tasks(aws)
    with AwsStandIn.running() as aws, patch.dict(os.environ, aws.environment()):
        aws.script(Delay(REQUEST_SECONDS))
        cold, samples = _crowd(aws)
    return Findings([*tasks, *cold], {"crowd": samples})


def _tasks(aws: AwsStandIn) -> list[Row]:
    ours, memory_only = (_look_up(aws, {"cache": cache}) for cache in ("host", "process"))
    job, unlucky_job = (_run_job(aws, refused_run) for refused_run in (None, 2))
    lives = ours["seconds"] / LIFETIME_SECONDS
    what = f"{TASKS:,} tasks through {lives:.0f} token lives"
    calls = Goal("AWS calls", ours["calls"], round(lives) + 1)
    failed = Goal("failed lookups", ours["failed"], 0)
    mine = f"{ours['calls']} AWS calls"
    return [
        Row(what, mine, "a cache in memory only", f"{memory_only['calls']:,} AWS calls", (calls, failed)),
        Row(what, f"{mine}, {ours['failed']} failed", "a refresh job, every 11 of 12 hours", _told(job)),
        Row(what, f"{mine}, {ours['failed']} failed", "the same, one run of which AWS refuses", _told(unlucky_job)),
    ]


def _told(job: dict[str, Any]) -> str:
    return f"{job['calls']} AWS calls, {job['failed']} failed: dead for {job['dead'] / LIFETIME_SECONDS * HOURS:.1f} h"


def _look_up(aws: AwsStandIn, kwargs: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache_dir:
        kwargs = {"connections": {"docker_default": HOST}, "refresh_before": LIFETIME_SECONDS * REFRESH_PART, **kwargs}
        return _run(aws, kwargs={**kwargs, "cache_dir": cache_dir})


def _run_job(aws: AwsStandIn, refused_run: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stored = str(Path(folder, "stored"))
        return _run(aws, job={"stored": stored, "period": JOB_PERIOD_SECONDS, "refused_run": refused_run})


def _run(aws: AwsStandIn, **order: Any) -> dict[str, Any]:
    aws.reset()
    told = programs.run("tests.benchmarks.tasks", url=aws.url, seconds=LIVES * LIFETIME_SECONDS, tasks=TASKS, **order)
    return {**told, "calls": len(aws.calls())}


def _crowd(aws: AwsStandIn) -> tuple[list[Row], dict[str, list[float]]]:
    alone, slowest, waiting = [], [], []
    samples: dict[str, list[float]] = {}
    for _ in range(CROWD_ROUNDS):
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as cache_dir:
            alone += [lookup.seconds for lookup in _look_up_at_once(empty, processes=1, threads=1)]
            before = len(aws.calls())
            cold = _look_up_at_once(cache_dir, processes=PROCESSES, threads=THREADS)
            calls = len(aws.calls()) - before
            warm = _look_up_at_once(cache_dir, processes=PROCESSES, threads=THREADS)
        samples = {"cold": [lookup.seconds for lookup in cold], "warm": [lookup.seconds for lookup in warm]}
        slowest.append(max(samples["cold"]))
        # Medians, because one process mints. Its own lookup costs each a warm process's time.
        cpu, base = (statistics.median(lookup.cpu for lookup in lookups) for lookups in (cold, warm))
        waiting.append((cpu - base) / statistics.median(samples["cold"]))
        assert calls == 1
    request_token = statistics.median(alone)
    row = Row(
        f"cold start of {PROCESSES} processes x {THREADS} threads: the slowest lookup",
        shown(statistics.median(slowest)),
        f"the mint alone, of {REQUEST_SECONDS:.0f} s",
        shown(request_token),
        (
            Goal("mints", statistics.median(slowest) / request_token, 2),
            Goal("CPU of a waiting process, part of its wait", statistics.median(waiting), 0.05),
        ),
    )
    return [row], samples


def _look_up_at_once(cache_dir: str, *, processes: int, threads: int) -> list[Lookup]:
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": cache_dir}
    return crowd(kwargs, processes=processes, threads=threads)

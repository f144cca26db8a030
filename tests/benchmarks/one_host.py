"""Count the AWS calls of one host: 1,000 tasks during three token lifetimes, and many processes with an empty cache."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import boto3
import botocore.loaders
import botocore.session
from botocore.exceptions import ClientError

from tests.benchmarks.lookup import CONN_ID, HOST, build_backend
from tests.benchmarks.results import Goal, Pair, Results, Row, compare
from tests.integration import programs
from tests.integration.crowd import Lookup, crowd
from tests.stand_ins.aws import AwsStandIn, Delay, Error

if TYPE_CHECKING:
    from collections.abc import Callable

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
    with AwsStandIn.running() as aws, patch.dict(os.environ, aws.environment()):
        rows = _tasks(aws)
    with AwsStandIn.running() as aws, patch.dict(os.environ, aws.environment()):
        aws.script(Delay(REQUEST_SECONDS))
        row, samples = _crowd(aws)
    return [*rows, row], {"crowd": samples}


def _tasks(aws: AwsStandIn) -> list[Row]:
    def run(**options: Any) -> tuple[int, int, str]:
        """Return the number of AWS calls and of failed lookups, and a description."""
        aws.reset()
        aws.set(token_lifetime=LIFETIME_SECONDS)
        with tempfile.TemporaryDirectory() as cache_dir:
            failed, expired_seconds = programs.call(run_tasks, url=aws.url, cache_dir=cache_dir, **options)
        calls, hours = len(aws.calls()), expired_seconds / LIFETIME_SECONDS * HOURS
        expired = f", {hours:.1f} h expired" if hours else ""
        return calls, failed, f"{calls:,} AWS calls, {failed} failed lookups{expired}"

    calls, failed, ours = run(cache="host")
    goals = (Goal(calls, LIFETIMES + 1, "AWS calls"), Goal(failed, 0, "failed lookups"))
    what = f"{TASKS:,} tasks, {LIFETIMES} token lifetimes"
    return [
        Row(what, ours, "cache in memory only", run(cache="process")[-1], goals),
        Row(what, ours, "refresh job every 11 h", run()[-1]),
        Row(what, ours, "the same, one run refused", run(refused_run=2)[-1]),
    ]


class RefreshJob:
    """A job that refreshes a stored token, as if in Airflow's database.

    :param refused_run: the number of the run that AWS refuses; the token then stays as it was
    """

    def __init__(self, aws: AwsStandIn, refused_run: int | None) -> None:
        self._aws = aws
        self._refused_run = refused_run
        self._runs = 0
        self._began = time.time()
        self._expires_at = float("inf")
        self.expired_seconds = 0.0

    def run_if_due(self) -> None:
        if time.time() < self._began + self._runs * JOB_PERIOD_SECONDS:
            return
        if self._runs == self._refused_run:
            self._aws.script(Error("ServiceUnavailableException", times=1))
        self._runs += 1
        try:
            answer = boto3.client("ecr", region_name="us-east-1").get_authorization_token()
        except ClientError:
            return
        self.expired_seconds += max(0.0, time.time() - self._expires_at)
        self._expires_at = answer["authorizationData"][0]["expiresAt"].timestamp()

    def has_valid_token(self) -> bool:
        return time.time() < self._expires_at


def run_tasks(url: str, cache_dir: str, cache: str | None = None, refused_run: int | None = None) -> tuple[int, float]:
    """
    Run the tasks of one host, each as a process that is forked when it is due, and looks up once.

    :param url: of AWS
    :param cache: of the backend; None: the tasks use the token of a refresh job
    :return: the number of failed lookups, and how long the job's token had expired
    """
    botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
    boto3.client("ecr", region_name="us-east-1")  # reads once what each forked process would read
    job = RefreshJob(AwsStandIn(url), refused_run)
    kwargs = {"refresh_before": REFRESH_BEFORE_SECONDS, "cache": cache or "host", "cache_dir": cache_dir}
    look_up = partial(build_backend(**kwargs).get_connection, CONN_ID) if cache else job.has_valid_token
    began, pids = time.time(), []
    for number in range(TASKS):
        time.sleep(max(0.0, began + LIFETIMES * LIFETIME_SECONDS * number / TASKS - time.time()))
        if not cache:
            job.run_if_due()
        pids.append(os.fork() or _exit_after(look_up))
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids), job.expired_seconds


def _exit_after(look_up: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        code = 0 if look_up() else 1
    finally:
        os._exit(code)


def _crowd(aws: AwsStandIn) -> tuple[Row, dict[str, list[float]]]:
    alone, slowest, cpu_shares = [], [], []
    samples: dict[str, list[float]] = {}
    for _ in range(CROWD_ROUNDS):
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as cache_dir:
            alone += [lookup.seconds for lookup in _look_up_at_once(empty, processes=1, threads=1)]
            calls_before = len(aws.calls())
            cold = _look_up_at_once(cache_dir)
            assert len(aws.calls()) - calls_before == 1
            warm = _look_up_at_once(cache_dir)
        samples = {
            name: [round(lookup.seconds, 4) for lookup in lookups]
            for name, lookups in (("empty cache", cold), ("token in the host's cache", warm))
        }
        slowest.append(max(lookup.seconds for lookup in cold))
        # Medians leave out the process that calls AWS. With a token in the cache, a process does all but wait.
        cpu, cpu_without_wait = (median(lookup.cpu for lookup in lookups) for lookups in (cold, warm))
        cpu_shares.append((cpu - cpu_without_wait) / median(lookup.seconds for lookup in cold))
    pair = Pair(median(slowest), median(alone))
    goals = (Goal(pair.percent / 100, 2, "times its time"), Goal(100 * median(cpu_shares), 5, "% CPU while it waits"))
    what = f"slowest of {PROCESSES} processes x {THREADS} threads, empty cache"
    return compare(what, "one process alone", pair, *goals), samples


def _look_up_at_once(cache_dir: str, processes: int = PROCESSES, threads: int = THREADS) -> list[Lookup]:
    return crowd({"connections": {CONN_ID: HOST}, "cache_dir": cache_dir}, processes=processes, threads=threads)

"""Run the tasks of one host, each as a process that is forked when it is due: ``python -m tests.benchmarks.tasks``.

The tasks use the backend, or the token that a refresh job has stored, as if in Airflow's database.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
import botocore.loaders
import botocore.session
from botocore.exceptions import ClientError

from tests.benchmarks.task_backend import CONN_ID, build_backend
from tests.integration import programs
from tests.stand_ins.aws import AwsStandIn, Error

if TYPE_CHECKING:
    from collections.abc import Callable


def read_stored_token(stored: Path) -> bool:
    """Return whether the last token that the job has stored is valid."""
    *_, last = stored.read_text().splitlines()
    return bool(json.loads(last)["expires_at"] > time.time())


def refresh(stored: Path) -> None:
    """Run the refresh job once; if AWS refuses, the token stays as it was."""
    try:
        answer = boto3.client("ecr", region_name="us-east-1").get_authorization_token()
    except ClientError:
        return
    run = {"at": time.time(), "expires_at": answer["authorizationData"][0]["expiresAt"].timestamp()}
    with stored.open("a") as history:
        history.write(json.dumps(run) + "\n")


def expired_seconds(stored: Path, until: float) -> float:
    """Return for how long the stored token had expired."""
    runs: list[dict[str, float]] = [json.loads(line) for line in stored.read_text().splitlines()]
    replaced_at = [*(run["at"] for run in runs[1:]), until]
    return sum(max(0.0, at - run["expires_at"]) for run, at in zip(runs, replaced_at, strict=True))


def fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return pid


def refresh_periodically(stored: Path, period: float, aws: AwsStandIn, refused_run: int | None) -> NoReturn:
    began = time.time()
    for run in itertools.count(1):
        time.sleep(max(0.0, began + run * period - time.time()))
        if run == refused_run:
            aws.script(Error("ServiceUnavailableException", times=1))
        refresh(stored)
    raise AssertionError


def start_job(job: dict[str, Any], aws: AwsStandIn) -> tuple[int, Path]:
    stored = Path(job["stored"])
    refresh(stored)
    return fork(partial(refresh_periodically, stored, job["period"], aws, job["refused_run"])), stored


def main() -> None:
    order = programs.order()
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    boto3.client("ecr", region_name="us-east-1")  # reads once what each forked process would read
    job = start_job(order["job"], AwsStandIn(order["url"])) if "job" in order else None
    look_up = (
        partial(read_stored_token, job[1]) if job else partial(build_backend(**order["kwargs"]).get_connection, CONN_ID)
    )
    began, pids = time.time(), []
    for number in range(order["tasks"]):
        time.sleep(max(0.0, began + order["seconds"] * number / order["tasks"] - time.time()))
        pids.append(fork(look_up))
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    ended = time.time()
    if job:
        os.kill(job[0], signal.SIGKILL)
    programs.report(
        {
            "seconds": ended - began,
            "failed": failed,
            "expired_seconds": expired_seconds(job[1], ended) if job else 0.0,
        }
    )


if __name__ == "__main__":
    main()

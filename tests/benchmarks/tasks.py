"""Tasks of one host, each a process that is forked when it is due: ``python -m tests.benchmarks.tasks``.

They look up by the backend, or, as if from Airflow's database, what a refresh job has stored, dead or alive.
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
from airflow.sdk import Connection
from botocore.exceptions import ClientError

from ecr_secrets_backend import EcrSecretsBackend
from tests.integration import programs
from tests.stand_ins.aws import AwsStandIn, Error

if TYPE_CHECKING:
    from collections.abc import Callable


def backend_of(kwargs: dict[str, Any]) -> Callable[[], object]:
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(Connection)  # as Airflow does in a task
    return lambda: backend.get_connection("docker_default").password


def look_up_stored(stored: Path) -> bool:
    *_, last = stored.read_text().splitlines()
    return bool(json.loads(last)["expires_at"] > time.time())


def refresh(stored: Path) -> bool:
    """Do what a run of a refresh job does; where AWS refuses, the next run is to do better."""
    try:
        answer = boto3.client("ecr", region_name="us-east-1").get_authorization_token()
    except ClientError:
        return False
    run = {"at": time.time(), "expires_at": answer["authorizationData"][0]["expiresAt"].timestamp()}
    with stored.open("a") as history:
        history.write(json.dumps(run) + "\n")
    return True


def expired_seconds(stored: Path, until: float) -> float:
    """Tell how long the stored token was dead: from each one's end until the next was stored."""
    runs: list[dict[str, float]] = [json.loads(line) for line in stored.read_text().splitlines()]
    following = [*(run["at"] for run in runs[1:]), until]
    return sum(max(0.0, at - run["expires_at"]) for run, at in zip(runs, following, strict=True))


def fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return pid


def keep_refreshing(stored: Path, period: float, aws: AwsStandIn, refused_run: int | None) -> NoReturn:
    """Run a refresh job at its times, until it is killed."""
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
    return fork(partial(keep_refreshing, stored, job["period"], aws, job["refused_run"])), stored


def main() -> None:
    order = programs.order()
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    boto3.client("ecr", region_name="us-east-1")  # reads, once for all that are forked, what is the same for all
    job = start_job(order["job"], AwsStandIn(order["url"])) if "job" in order else None
    look_up = partial(look_up_stored, job[1]) if job else backend_of(order["kwargs"])
    began, pids = time.time(), []
    for number in range(order["tasks"]):
        time.sleep(max(0.0, began + order["seconds"] * number / order["tasks"] - time.time()))
        pids.append(fork(look_up))
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    ended = time.time()
    if job:
        os.kill(job[0], signal.SIGKILL)
    programs.report(
        {"seconds": ended - began, "failed": failed, "dead": expired_seconds(job[1], ended) if job else 0.0}
    )


if __name__ == "__main__":
    main()

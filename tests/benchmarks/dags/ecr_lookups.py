"""Tasks that look one connection up again and again, in turn, so that each has the machine to itself."""

from __future__ import annotations

import base64
import os
import time

import structlog
from airflow.sdk import DAG, BaseHook, task
from airflow.sdk.log import mask_secret

ROUNDS = 9
AGAIN = 20
PASSWORD_BYTES = 1900  # about as many as ECR's


@task
def look_up(conn_id: str) -> None:
    seconds = []
    for _ in range(1 + AGAIN):
        started_at = time.perf_counter()
        connection = BaseHook.get_connection(conn_id)
        seconds.append(time.perf_counter() - started_at)
        assert connection.login == "AWS"
    structlog.get_logger().info("Looked up", conn_id=conn_id, seconds=seconds)


@task
def mask() -> None:
    """Do what Airflow does with the password of each connection that a task gets, and nothing else."""
    password = base64.b64encode(os.urandom(PASSWORD_BYTES)).decode()
    seconds = []
    for _ in range(1 + AGAIN):
        started_at = time.perf_counter()
        mask_secret(password)
        seconds.append(time.perf_counter() - started_at)
    structlog.get_logger().info("Looked up", conn_id="mask", seconds=seconds)


with DAG("ecr_lookups", schedule="@once"):
    before = look_up.override(task_id="warm")("docker_default")
    for number in range(ROUNDS):
        for after in (
            look_up.override(task_id=f"ours_{number}")("docker_default"),
            look_up.override(task_id=f"stored_{number}")("stored"),
            mask.override(task_id=f"mask_{number}")(),
        ):
            before >> after
            before = after

"""Tasks that look one connection up again and again, in turn, so that each has the machine to itself."""

from __future__ import annotations

import base64
import os
import time
from functools import wraps
from typing import Any

import structlog
from airflow.sdk import DAG, BaseHook, task
from airflow.sdk.log import mask_secret

from ecr_secrets_backend import EcrSecretsBackend

ROUNDS = 9
AGAIN = 20
PASSWORD_BYTES = 1900  # about as many as ECR's


def timed(seconds: list[float], backend_class: type[EcrSecretsBackend]) -> None:
    """Have the backend's part of each lookup of this task timed as well."""
    get_connection = backend_class.get_connection

    @wraps(get_connection)
    def get_and_time(*arguments: Any, **named: Any) -> Any:
        started_at = time.perf_counter()
        try:
            return get_connection(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - started_at)

    backend_class.get_connection = get_and_time  # type: ignore[method-assign]


@task
def look_up(conn_id: str) -> None:
    seconds, share = [], []  # type: list[float], list[float]
    timed(share, EcrSecretsBackend)
    for _ in range(1 + AGAIN):
        started_at = time.perf_counter()
        connection = BaseHook.get_connection(conn_id)
        seconds.append(time.perf_counter() - started_at)
        assert connection.login == "AWS"
    structlog.get_logger().info("Looked up", conn_id=conn_id, seconds=seconds)
    if conn_id == "docker_default":
        assert len(share) == len(seconds)
        structlog.get_logger().info("Looked up", conn_id="share", seconds=share)


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

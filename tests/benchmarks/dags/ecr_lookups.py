"""Tasks that look a connection up many times, one task after another, so that none disturbs another."""

from __future__ import annotations

import base64
import os
import time
from functools import wraps
from typing import TYPE_CHECKING, Any

import structlog
from airflow.sdk import DAG, BaseHook, task
from airflow.sdk.log import mask_secret

from ecr_secrets_backend import EcrSecretsBackend

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
LOOKUPS = 21
PASSWORD_BYTES = 1900  # about as many as ECR's


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function, which then adds the time of each call to `seconds`."""

    @wraps(work)
    def work_and_time(*args: Any, **kwargs: Any) -> Any:
        started_at = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started_at)

    return work_and_time


def measure(what: str, work: Callable[[str], Any], argument: str) -> None:
    seconds: list[float] = []
    measured = timed(work, seconds)
    for _ in range(LOOKUPS):
        measured(argument)
    structlog.get_logger().info("Measured", what=what, seconds=seconds)


@task
def look_up(conn_id: str) -> None:
    seconds: list[float] = []
    EcrSecretsBackend.get_connection = timed(EcrSecretsBackend.get_connection, seconds)  # type: ignore[method-assign]
    measure(conn_id, BaseHook.get_connection, conn_id)
    if conn_id == "docker_default":
        assert len(seconds) == LOOKUPS
        structlog.get_logger().info("Measured", what="backend", seconds=seconds)


@task
def mask() -> None:
    """Mask a password, like Airflow with each connection of a task."""
    measure("mask", mask_secret, base64.b64encode(os.urandom(PASSWORD_BYTES)).decode())


with DAG("ecr_lookups", schedule="@once"):
    before = look_up.override(task_id="warm")("docker_default")
    for number in range(ROUNDS):
        ours = look_up.override(task_id=f"ours_{number}")("docker_default")
        stored = look_up.override(task_id=f"stored_{number}")("stored")
        masked = mask.override(task_id=f"mask_{number}")()
        before >> ours >> stored >> masked
        before = masked

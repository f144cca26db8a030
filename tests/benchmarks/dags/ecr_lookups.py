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


def report(what: str, seconds: list[float]) -> None:
    assert len(seconds) == LOOKUPS
    structlog.get_logger().info("Measured", what=what, seconds=seconds)


@task
def look_up(conn_id: str) -> None:
    seconds, backend_seconds = [], []  # type: list[float], list[float]
    EcrSecretsBackend.get_connection = timed(EcrSecretsBackend.get_connection, backend_seconds)  # type: ignore[method-assign]
    get_connection = timed(BaseHook.get_connection, seconds)
    for _ in range(LOOKUPS):
        assert get_connection(conn_id).login == "AWS"
    report(conn_id, seconds)
    if conn_id == "docker_default":
        report("backend", backend_seconds)


@task
def mask() -> None:
    """Mask a password, like Airflow with each connection of a task."""
    password = base64.b64encode(os.urandom(PASSWORD_BYTES)).decode()
    seconds: list[float] = []
    for _ in range(LOOKUPS):
        timed(mask_secret, seconds)(password)
    report("mask", seconds)


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

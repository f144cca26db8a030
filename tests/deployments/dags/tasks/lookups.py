"""Tasks that look up connections: many at once, one through a trigger, one with Docker, one that is refused."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import structlog
from airflow.providers.docker.hooks.docker import DockerHook
from airflow.sdk import DAG, BaseHook, task

from tests.airflow.lookups import DeferredLookup

log = structlog.get_logger()


@task
def look_up(conn_id: str) -> None:
    """Look up, and log the beginning of the token."""
    began_at = time.time()
    beginning = str(BaseHook.get_connection(conn_id).password)[:16]
    log.info("Looked up", beginning=beginning, pid=os.getpid(), parent=os.getppid(), began_at=began_at)


with DAG("crowd", schedule=None):
    for number in range(8):
        look_up.override(task_id=f"crowd_{number}")("docker_crowd")

with DAG("trigger", schedule=None):
    trigger = DeferredLookup(task_id="trigger", conn_id="docker_trigger", times=2)
    trigger >> look_up.override(task_id="task")("docker_trigger")

with DAG("refused", schedule=None):
    again = {"retries": 2, "retry_delay": timedelta(seconds=1)}
    look_up.override(task_id="refused", **again)("docker_refused")

with DAG("hook", schedule=None):

    @task(task_id="hook")
    def log_in() -> None:
        engine = DockerHook(docker_conn_id="docker_default", base_url="unix:///var/run/docker.sock").get_conn()
        engine.pull("123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1")
        log.info("Looked up", aws=sorted(name for name in os.environ if name.startswith("AWS_")))

    log_in()

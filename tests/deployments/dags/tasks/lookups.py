"""Tasks that look up connections: many at once, one through a trigger, one with Docker, one that is refused."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.sdk import DAG, BaseHook, task

from tests.deployments.lookups import DeferredLookup, digest_of, log_lookup


@task
def look_up(conn_id: str) -> None:
    began_at = time.time()
    connection = BaseHook.get_connection(conn_id)
    log_lookup(host=connection.host, login=connection.login, digest=digest_of(connection.password), began_at=began_at)


with DAG("crowd", schedule=None):
    for number in range(8):
        look_up.override(task_id=f"crowd_{number}")("docker_crowd")

with DAG("trigger", schedule=None):
    DeferredLookup(task_id="trigger", conn_id="docker_trigger")

with DAG("refused", schedule=None):
    again = {"retries": 2, "retry_delay": timedelta(seconds=1)}
    look_up.override(task_id="refused", **again)("docker_refused")

with DAG("hook", schedule=None):

    @task(task_id="hook")
    def log_in() -> None:
        engine = DockerHook(docker_conn_id="docker_default", base_url="unix:///var/run/docker.sock").get_conn()
        engine.pull("123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1")
        log_lookup(aws=sorted(name for name in os.environ if name.startswith("AWS_")))

    log_in()

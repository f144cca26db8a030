"""Tasks that look up Docker connections for ECR: six at once with an empty cache, then four one by one."""

from __future__ import annotations

import os
import time
from hashlib import sha256

import structlog
from airflow.sdk import DAG, BaseHook, task

US, EU = ["docker_default"], ["docker_eu"]
PARALLEL = {"orders": US, "customers": US, "stock": US, "orders_eu": EU, "customers_eu": EU, "stock_eu": EU}
ONE_BY_ONE = {"join": US + EU, "train": US, "evaluate": EU, "publish": US + EU}


@task
def look_up(conn_ids: list[str]) -> None:
    for conn_id in conn_ids:
        began = time.time()
        connection = BaseHook.get_connection(conn_id)  # as DockerHook does before it logs in
        seconds = time.time() - began
        structlog.get_logger().info(
            "Looked up",
            conn_id=conn_id,
            host=connection.host,
            login=connection.login,
            digest=sha256(str(connection.password).encode()).hexdigest()[:8],
            began=began,
            seconds=seconds,
            pid=os.getpid(),
        )


with DAG("ecr_demo", schedule="@once"):
    before = [look_up.override(task_id=name)(conn_ids) for name, conn_ids in PARALLEL.items()]
    for name, conn_ids in ONE_BY_ONE.items():
        after = look_up.override(task_id=name)(conn_ids)
        before >> after
        before = [after]

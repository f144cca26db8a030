"""Tasks that look up what Docker needs for ECR, six at once on a cold cache and four in turn, and know of no token."""

from __future__ import annotations

import os
import time
from hashlib import sha256

import structlog
from airflow.sdk import DAG, BaseHook, task

US, EU = ["docker_default"], ["docker_eu"]
AT_ONCE = {"orders": US, "customers": US, "stock": US, "orders_eu": EU, "customers_eu": EU, "stock_eu": EU}
IN_TURN = {"join": US + EU, "train": US, "evaluate": EU, "publish": US + EU}


@task
def look_up(conn_ids: list[str]) -> None:
    for conn_id in conn_ids:
        began = time.time()
        connection = BaseHook.get_connection(conn_id)  # as a DockerOperator's hook does before it logs in
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
    before = [look_up.override(task_id=name)(conn_ids) for name, conn_ids in AT_ONCE.items()]
    for name, conn_ids in IN_TURN.items():
        after = look_up.override(task_id=name)(conn_ids)
        before >> after
        before = [after]

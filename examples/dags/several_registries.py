"""Run images of several registries, with ``examples/airflow_cfg/several_registries.cfg``.

Docker finds the login by the image's host, so each registry needs its own connection.
"""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

REGISTRIES = {
    "docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "docker_eu": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
}

with DAG("several_registries", schedule=None):
    for conn_id, registry in REGISTRIES.items():
        DockerOperator(
            task_id=conn_id,
            docker_conn_id=conn_id,
            image=f"{registry}/app:1",
            force_pull=True,
            auto_remove="success",
            mount_tmp_dir=False,
        )

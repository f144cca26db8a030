"""Two images of two regions' registries, run as any DAG runs an image: nothing in here knows of tokens."""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

CONNECTIONS = {"us-east-1": "docker_default", "eu-central-1": "docker_eu"}

with DAG("ecr_images", schedule=None):
    for region, connection in CONNECTIONS.items():
        DockerOperator(
            task_id=region,
            docker_conn_id=connection,
            image=f"123456789012.dkr.ecr.{region}.amazonaws.com/app:1",
            command="cat /greeting",
            force_pull=True,
            auto_remove="success",
            mount_tmp_dir=False,
            network_mode="none",
        )

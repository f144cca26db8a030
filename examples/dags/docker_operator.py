"""Run a private image with DockerOperator. The DAG needs only the connection ID."""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("docker_operator", schedule=None):
    DockerOperator(
        task_id="greet",
        docker_conn_id="docker_default",  # without it, the operator does not log in
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1",
        force_pull=True,  # the tag may name a newer image
        auto_remove="success",  # keeps a failed container; prune_docker.py removes it later
        mount_tmp_dir=False,  # also works with an engine on another host
    )

"""A private image, run by a DockerOperator: the ID of the connection is all that a DAG says about ECR."""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("docker_operator", schedule=None):
    DockerOperator(
        task_id="greet",
        docker_conn_id="docker_default",  # the operator logs in with no connection but a named one
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1",
        force_pull=True,  # the tag may have moved since this engine pulled it
        auto_remove="success",  # a container that has failed is left to be looked at; prune_docker.py removes it later
        mount_tmp_dir=False,  # works with an engine on another host, too
    )

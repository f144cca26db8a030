"""A private image, run as a service of a Docker swarm: the manager hands the login on to the node that pulls.

A service keeps the login that it was created with, and that token dies within twelve hours. A task that has to be moved
to another node after that cannot be pulled there, and has to be retried.
"""

from airflow.providers.docker.operators.docker_swarm import DockerSwarmOperator
from airflow.sdk import DAG

with DAG("docker_swarm", schedule=None):
    DockerSwarmOperator(
        task_id="greet",
        docker_conn_id="docker_default",
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1",
        command="cat /greeting",
        auto_remove="success",
        enable_logging=True,
        mount_tmp_dir=False,
        networks=["host"],
    )

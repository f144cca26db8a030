"""Run a private image as a service of a Docker swarm. The manager passes the login to the node that pulls.

A service keeps its first login, and that token expires within twelve hours. If the swarm moves the service to another
node after that, the pull fails there, and Airflow has to retry the task.
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

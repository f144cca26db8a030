"""Run a Python function in a private image that has Python and bash. The arguments are those of DockerOperator."""

from airflow.sdk import DAG, task

with DAG("task_docker", schedule=None):

    @task.docker(
        docker_conn_id="docker_default",
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/python:1",
        force_pull=True,
        auto_remove="success",
        mount_tmp_dir=False,
    )
    def greet() -> str:
        from pathlib import Path  # in the container

        greeting = Path("/greeting").read_text()
        print(greeting)
        return greeting  # to later tasks, through XCom

    greet()

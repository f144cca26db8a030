"""The other ways in which DAGs use a Docker connection, a DAG for each: nothing in here knows of tokens."""

import sys

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker_swarm import DockerSwarmOperator
from airflow.sdk import DAG, task
from docker.types import Mount  # type: ignore[import-untyped]  # comes with Airflow's provider

CONNECTION = "docker_default"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"
ENGINE = "unix:///var/run/docker.sock"
# The image has no Python of its own.
PYTHON = {
    folder: Mount(folder, folder, "bind", read_only=True) for folder in ("/usr", "/lib", "/lib64", sys.base_prefix)
}
SHELL = Mount("/bin/bash", "/usr/bin/bash", "bind", read_only=True)

with DAG("task_docker", schedule=None):

    @task.docker(
        task_id="task_docker",
        docker_conn_id=CONNECTION,
        image=IMAGE,
        python_command=sys.base_prefix + "/bin/python3",
        expect_airflow=False,
        force_pull=True,
        auto_remove="success",
        mount_tmp_dir=False,
        mounts=[*PYTHON.values(), SHELL],
        network_mode="none",
    )
    def greet() -> None:
        from pathlib import Path

        print(Path("/greeting").read_text())  # noqa: T201 - into the task's log

    greet()

with DAG("swarm", schedule=None):
    DockerSwarmOperator(
        task_id="swarm",
        docker_conn_id=CONNECTION,
        image=IMAGE,
        command="cat /greeting",
        auto_remove="success",
        mount_tmp_dir=False,
        networks=["host"],
        enable_logging=True,
    )

with DAG("hook", schedule=None):

    @task(task_id="hook")
    def run_by_hand() -> None:
        engine = DockerHook(docker_conn_id=CONNECTION, base_url=ENGINE).get_conn()
        engine.pull(IMAGE)
        container = engine.create_container(
            IMAGE, "cat /greeting", host_config=engine.create_host_config(network_mode="none")
        )
        engine.start(container)
        engine.wait(container)
        print(engine.logs(container).decode())  # noqa: T201 - into the task's log
        engine.remove_container(container)

    run_by_hand()

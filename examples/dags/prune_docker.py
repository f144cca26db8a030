"""Every night, remove from the workers' Docker engines what is old, has our label, and is not in use.

That is stopped containers, such as those of tasks that have failed, and then images that no container is left of. A
running container, its image, and all without the label stay. Put the label into your images; containers inherit it::

    LABEL com.example.airflow=prune

An image is as old as its build. So a task that has just pulled an old one, and not yet started it, may lose it to this
DAG, and pulls again when it is retried: choose an hour at which few tasks begin.
"""

import docker
from airflow.sdk import DAG, Param, task

#: Each worker, by a queue that it alone serves (``airflow celery worker --queues default,worker-1``), and its engine,
#: which is the ``docker_url`` of its tasks.
ENGINES = {"default": "unix:///var/run/docker.sock"}

with DAG(
    "prune_docker",
    schedule="30 3 * * *",
    catchup=False,
    max_active_runs=1,
    params={
        "label": Param("com.example.airflow=prune", type="string", minLength=1, description="KEY or KEY=VALUE"),
        "older_than_hours": Param(168, type="integer", minimum=0, description="since it was made"),
    },
):

    @task
    def prune(docker_url: str, until: str, label: str) -> None:
        engine = docker.DockerClient(base_url=docker_url, timeout=600)  # seconds: a slow disk takes its time
        filters = {"until": until, "label": label}
        # In this order: what a container was made of is in use for as long as the container is there.
        containers = engine.containers.prune(filters)
        images = engine.images.prune({**filters, "dangling": False})  # not only those that have lost their name
        for removed in (*(containers["ContainersDeleted"] or ()), *(images["ImagesDeleted"] or ())):
            print(removed)
        print(f"{(containers['SpaceReclaimed'] + images['SpaceReclaimed']) / 1e6:.0f} MB are free again.")

    for queue, docker_url in ENGINES.items():
        prune.override(task_id=f"prune_{queue}", queue=queue)(
            docker_url, until="{{ params.older_than_hours }}h", label="{{ params.label }}"
        )

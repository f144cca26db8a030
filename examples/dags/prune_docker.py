"""Every night, remove old containers and images that have a label and are not in use from the workers' Docker engines.

It removes stopped containers, such as those of failed tasks, and then images without a container. Running containers,
their images, and all without the label stay. Add the label to your images; containers inherit it::

    LABEL com.example.airflow=prune

The age of an image is the age of its build. So this DAG may remove an old image that a task has just pulled and not yet
started; the task's retry pulls it again. Choose an hour at which few tasks start.
"""

import docker
from airflow.sdk import DAG, Param, task

#: For each worker: a queue that only this worker serves (``airflow celery worker --queues default,worker-1``), and its
#: engine, the ``docker_url`` of its tasks.
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
        engine = docker.DockerClient(base_url=docker_url, timeout=600)  # seconds, because a disk may be slow
        filters = {"until": until, "label": label}
        # Containers first: an image is in use as long as it has a container.
        containers = engine.containers.prune(filters)
        images = engine.images.prune({**filters, "dangling": False})  # also images with a name
        for removed in (*(containers["ContainersDeleted"] or ()), *(images["ImagesDeleted"] or ())):
            print(removed)
        print(f"{(containers['SpaceReclaimed'] + images['SpaceReclaimed']) / 1e6:.0f} MB freed.")

    for queue, docker_url in ENGINES.items():
        prune.override(task_id=f"prune_{queue}", queue=queue)(
            docker_url, until="{{ params.older_than_hours }}h", label="{{ params.label }}"
        )

"""Run an image of GitLab's registry and one of ECR.

You choose how long GitLab's deploy tokens are valid, so Airflow can store one::

    airflow connections add gitlab_registry --conn-type docker --conn-host gitlab.example.com --conn-port 5050 \
        --conn-login airflow --conn-password "$DEPLOY_TOKEN"

The backend does not map ``gitlab_registry``, so Airflow finds it in its database.
"""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

IMAGES = {
    "docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1",
    "gitlab_registry": "gitlab.example.com:5050/group/project/app:1",
}

with DAG("gitlab_beside_ecr", schedule=None):
    for conn_id, image in IMAGES.items():
        DockerOperator(
            task_id=conn_id,
            docker_conn_id=conn_id,
            image=image,
            force_pull=True,
            auto_remove="success",
            mount_tmp_dir=False,
        )

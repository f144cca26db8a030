"""Use Docker's API with a login to ECR, if the operators do not do what you need."""

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.sdk import DAG, task

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"

with DAG("docker_hook", schedule=None):

    @task
    def greet() -> None:
        engine = DockerHook(docker_conn_id="docker_default", base_url="unix:///var/run/docker.sock").get_conn()
        engine.pull(IMAGE)
        container = engine.create_container(IMAGE, "cat /greeting")
        try:
            engine.start(container)
            engine.wait(container)
            print(engine.logs(container).decode())
        finally:
            engine.remove_container(container, force=True)

    greet()

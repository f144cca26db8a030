"""Every day, check the login to each registry, to find a lost permission before a task needs it.

If a check fails, its task fails, and the log has the step and the fix. ``ecr-secrets-backend check`` runs in the task's
process, which can look up an ``aws_conn_id``. Without one, a BashOperator also works.
"""

from airflow.sdk import DAG, task

#: Images that tasks pull. ``check`` finds the connection from the image's host.
IMAGES = {"app": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"}

with DAG("self_check", schedule="@daily", catchup=False, max_active_runs=1):

    @task
    def check(*arguments: str) -> None:
        from ecr_secrets_backend.cli import main

        if main(["check", *arguments]) != 0:
            raise RuntimeError("A check failed. The log above has the cause and the fix.")

    check.override(task_id="connections")()  # all connections, up to the login
    for name, image in IMAGES.items():
        check.override(task_id=name)("--image", image)

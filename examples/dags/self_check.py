"""Every day, walk the way to each registry, so that a lost permission is found before a task needs it.

A task fails if something on its way is wrong; its log has the steps, the first that fails, and the remedy. The command
``ecr-secrets-backend check`` is called within the task's own process, which may ask Airflow for an ``aws_conn_id``. A
BashOperator would do as well where there is none.
"""

from airflow.sdk import DAG, task

#: Images that must be there to be pulled. ``check`` knows by their hosts which connection serves them.
IMAGES = {"app": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"}

with DAG("self_check", schedule="@daily", catchup=False, max_active_runs=1):

    @task
    def check(*arguments: str) -> None:
        from ecr_secrets_backend.cli import main

        if main(["check", *arguments]) != 0:
            raise RuntimeError("Something is wrong; the log above names it and its remedy.")

    check.override(task_id="connections")()  # of all connections, as far as the login
    for name, image in IMAGES.items():
        check.override(task_id=name)("--image", image)

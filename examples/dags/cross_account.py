"""A partner's image, by a role in their account: see ``examples/airflow_cfg/cross_account_role.cfg``.

Which role that is, and what it takes to assume it, is the configuration's business. The DAG knows the connection.
"""

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("cross_account", schedule=None):
    DockerOperator(
        task_id="greet",
        docker_conn_id="docker_partner",
        image="210987654321.dkr.ecr.us-east-1.amazonaws.com/app:1",
        force_pull=True,
        auto_remove="success",
        mount_tmp_dir=False,
    )

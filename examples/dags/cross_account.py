"""Run a partner's image, with a role in the partner's account.

``examples/airflow_cfg/cross_account_role.cfg`` names the role; the DAG needs only the connection ID.
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

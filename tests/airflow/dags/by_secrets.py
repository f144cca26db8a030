"""Tasks with a backend from `[secrets]`: four that are served, one of them in a trigger, and two that fail."""

from datetime import datetime, timedelta, timezone

from tests.airflow.lookups import DeferredLookup, look_up
from tests.airflow_version import ANSWERS_TRIGGERS, DAG

with DAG("by_secrets", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    look_up.override(task_id="first")("docker_default", times=2)
    look_up.override(task_id="second")("docker_default")
    look_up.override(task_id="denied")("docker_denied")
    look_up.override(task_id="leftover")("docker_leftover")
    look_up.override(task_id="by_airflow")("docker_by_airflow")
    if ANSWERS_TRIGGERS:
        # Airflow 3.0 on a busy machine may lose the state "deferred" of a task, before its trigger runs.
        DeferredLookup(task_id="in_trigger", conn_id="docker_in_trigger", times=5, retries=3, retry_delay=timedelta(0))

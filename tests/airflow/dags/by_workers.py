"""A task with a backend from `[workers]`, where Airflow has that, and keeps its tokens in memory alone."""

from datetime import datetime, timezone

from tests.airflow.lookups import look_up
from tests.airflow_version import DAG

with DAG("by_workers", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    look_up.override(task_id="memory")("docker_worker", times=3)

"""Measure lookups in the tasks of a real Airflow, beside those of a connection in its metadata database."""

from __future__ import annotations

import base64
import json
import os
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.demo.airflow_site import AirflowSite
from tests.benchmarks.results import Goal, Results, Row, compare, medians, with_unit
from tests.benchmarks.task_backend import CONN_ID, HOST
from tests.stand_ins.aws import AwsStandIn

CONFIGURATION = f"""\
[secrets]
backend = ecr_secrets_backend.EcrSecretsBackend
backend_kwargs = {json.dumps({"connections": {CONN_ID: HOST}})}
"""
PASSWORD = base64.b64encode(os.urandom(1900)).decode()  # as long as ECR's, and of the same letters
ENDED = "SELECT state FROM dag_run WHERE state IN ('success', 'failed')"


def measure() -> Results:
    with TemporaryDirectory(prefix="ecr-bench-") as folder, AwsStandIn.running() as aws:
        cache = Path(folder, "cache")
        cache.mkdir()
        # DEBUG would slow down the lookup through the API most.
        quiet = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
        environment = {**aws.environment(), **quiet, "XDG_RUNTIME_DIR": str(cache)}
        dags = Path(__file__).parent / "dags"
        with AirflowSite(Path(folder, "airflow"), dags, environment, CONFIGURATION) as airflow:
            return Results(_rows(_run_dag(airflow)))


def _run_dag(airflow: AirflowSite) -> dict[str, list[list[float]]]:
    """Return the seconds of each lookup of each task, by what was measured."""
    airflow.run("db migrate")
    airflow.add_connection(conn_id="stored", conn_type="docker", host=HOST, login="AWS", password=PASSWORD)
    airflow.start("api-server", "--apps=execution")
    airflow.start("dag-processor")
    airflow.start("scheduler", "--skip-serve-logs")
    airflow.wait(lambda: airflow.ask(ENDED))
    assert airflow.ask(ENDED) == [("success",)]
    samples: dict[str, list[list[float]]] = {CONN_ID: [], "stored": [], "mask": [], "backend": []}
    for task, line in airflow.logged():
        if line["event"] == "Measured" and task != "warm":
            samples[line["what"]].append(line["seconds"])
    return samples


def _rows(samples: dict[str, list[list[float]]]) -> list[Row]:
    ours, stored, mask, backend = medians([[task[0] for task in tasks] for tasks in samples.values()])
    ours_again, stored_again, mask_again, backend_again = medians(
        [[statistics.median(task[1:]) for task in tasks] for tasks in samples.values()]
    )
    return [
        compare("first lookup in a task", ours, "Airflow's database", stored),
        compare("repeated lookup in a task", ours_again, "Airflow's database", stored_again),
        Row("a task's first masking of a password", with_unit(mask), "repeated", with_unit(mask_again)),
        Row(
            "the backend's part of a task's first lookup",
            with_unit(backend),
            "repeated",
            with_unit(backend_again),
            (Goal(backend * 1e3, 0.3, "ms"), Goal(backend_again * 1e6, 20, "µs, repeated")),
        ),
    ]

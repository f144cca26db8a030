"""Measure lookups in the tasks of a real Airflow, beside those of a connection in its metadata database."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from examples.demo.airflow_site import AirflowSite
from tests.benchmarks.lookup import CONN_ID, HOST
from tests.benchmarks.results import Goal, Pair, Results, compare
from tests.stand_ins.aws import AwsStandIn

CONFIGURATION = f"""\
[secrets]
backend = ecr_secrets_backend.EcrSecretsBackend
backend_kwargs = {json.dumps({"connections": {CONN_ID: HOST}})}
"""
PASSWORD = base64.b64encode(os.urandom(1900)).decode()  # as long as ECR's, and of the same letters
ENDED = "SELECT state FROM dag_run WHERE state IN ('success', 'failed')"


def measure() -> Results:
    samples = _run_dag()
    first = {what: median(task[0] for task in tasks) for what, tasks in samples.items()}
    again = {what: median(median(task[1:]) for task in tasks) for what, tasks in samples.items()}
    backend = Pair(first["backend"], again["backend"])
    goals = (Goal(backend.ours * 1e3, 0.3, "ms"), Goal(backend.theirs * 1e6, 20, "µs, repeated"))
    rows = [
        compare(f"{which} lookup in a task", "Airflow's database", Pair(each[CONN_ID], each["stored"]), on_chart=True)
        for which, each in {"first": first, "repeated": again}.items()
    ]
    rows += [
        compare("a task's first masking of a password", "repeated", Pair(first["mask"], again["mask"])),
        compare("the backend's part of a task's first lookup", "repeated", backend, *goals),
    ]
    return rows, {}


def _run_dag() -> dict[str, list[list[float]]]:
    """Return the seconds of each lookup of each task, by what was measured."""
    with TemporaryDirectory(prefix="ecr-bench-") as folder, AwsStandIn.running() as aws:
        cache = Path(folder, "cache")
        cache.mkdir()
        # DEBUG would slow down the lookup through the API most.
        quiet = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
        environment = {**aws.environment(), **quiet, "XDG_RUNTIME_DIR": str(cache)}
        dags = Path(__file__).parent / "dags"
        with AirflowSite(Path(folder, "airflow"), dags, environment, CONFIGURATION) as airflow:
            airflow.run("db migrate")
            airflow.add_connection(conn_id="stored", conn_type="docker", host=HOST, login="AWS", password=PASSWORD)
            airflow.start("api-server", "--apps=execution")
            airflow.start("dag-processor")
            airflow.start("scheduler", "--skip-serve-logs")
            airflow.wait(lambda: airflow.ask(ENDED))
            assert airflow.ask(ENDED) == [("success",)]
            samples: dict[str, list[list[float]]] = {}
            for task, line in airflow.logged():
                if line["event"] == "Measured" and task != "warm":
                    samples.setdefault(line["what"], []).append(line["seconds"])
    return samples

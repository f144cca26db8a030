"""Lookups in the tasks of a real Airflow: ours, and of a connection that its metadata database holds."""

from __future__ import annotations

import base64
import json
import os
import statistics
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from examples.demo.airflow_site import COMPONENTS, AirflowSite
from tests.benchmarks.results import Findings, Goal, Row, medians, shown
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
CONFIGURATION = f"""\
[secrets]
backend = ecr_secrets_backend.EcrSecretsBackend
backend_kwargs = {json.dumps({"connections": {"docker_default": HOST}})}
"""
PASSWORD = base64.b64encode(os.urandom(1900)).decode()  # of the length and the letters of ECR's
STORED = ["--conn-type=docker", f"--conn-host={HOST}", "--conn-login=AWS", f"--conn-password={PASSWORD}"]
ENDED = "SELECT state FROM dag_run WHERE state IN ('success', 'failed')"


def measure() -> Findings:
    with TemporaryDirectory(prefix="ecr-bench-") as folder, AwsStandIn.running() as aws:
        cache = Path(folder, "cache")
        cache.mkdir()
        quiet = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}  # DEBUG costs the lookup through the API the most
        environment = {**aws.environment(), **quiet, "XDG_RUNTIME_DIR": str(cache)}
        airflow = AirflowSite(Path(folder, "airflow"), Path(__file__).parent / "dags", CONFIGURATION, environment)
        try:
            samples = _run(airflow)
        finally:
            airflow.end()
    return Findings(_rows(samples), {"in a task": samples})


def _run(airflow: AirflowSite) -> dict[str, list[list[float]]]:
    """Run the DAG, and give the seconds of each lookup of each task, by connection."""
    for command, options in {"db migrate": [], "connections add": ["stored", *STORED]}.items():
        process = airflow.start(command, *options)
        _wait(airflow, lambda process=process: process.poll() == 0)  # type: ignore[misc]
    for component, options in COMPONENTS.items():
        airflow.start(component, *options)
    _wait(airflow, lambda: airflow.ask(ENDED))
    assert airflow.ask(ENDED) == [("success",)]
    samples: dict[str, list[list[float]]] = {"docker_default": [], "stored": [], "mask": [], "share": []}
    for task, line in airflow.logged():
        if line["event"] == "Looked up" and task != "warm":
            samples[line["conn_id"]].append(line["seconds"])
    return samples


def _wait(airflow: AirflowSite, is_done: Callable[[], Any]) -> None:
    for _ in airflow.until(is_done):
        pass


def _rows(samples: dict[str, list[list[float]]]) -> list[Row]:
    where = f"in a task of Airflow {version('apache-airflow')}"
    peer = "a connection of the metadata database, through the Execution API"
    ours, theirs, mask, share = medians([[seconds[0] for seconds in tasks] for tasks in samples.values()])
    ours_again, theirs_again, mask_again, share_again = medians(
        [[statistics.median(seconds[1:]) for seconds in tasks] for tasks in samples.values()]
    )
    return [
        Row(f"first lookup {where}", shown(ours), peer, shown(theirs)),
        Row(f"repeated lookup {where}", shown(ours_again), peer, shown(theirs_again)),
        Row("of these, Airflow's masking of the password: at first", shown(mask), "again", shown(mask_again)),
        Row(
            "of these, the backend's share: at first",
            shown(share),
            "again",
            shown(share_again),
            (Goal("ms", share * 1e3, 0.3), Goal("µs again", share_again * 1e6, 20)),
        ),
    ]

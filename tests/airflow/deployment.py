"""A whole Airflow of any supported version: servers, tasks in their own processes, and a command."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import TYPE_CHECKING, Any

from examples.demo.airflow_site import AirflowSite
from tests.airflow.lookups import AIRFLOWS_OWN, RESULTS
from tests.airflow_version import HAS_KWARG_VARIABLES, HAS_WORKERS_BACKEND, SERVERS
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.statsd import StatsD

BACKEND = "ecr_secrets_backend.EcrSecretsBackend"
#: Each connection has its own region, so that the AWS calls of each can be counted.
REGIONS = {
    "docker_default": "us-east-1",
    "docker_denied": "eu-west-1",
    "docker_leftover": "eu-central-1",
    "docker_worker": "ap-south-1",
    "docker_by_airflow": "us-west-2",
    "docker_in_trigger": "ca-central-1",
}
OF_SECRETS = ("docker_default", "docker_denied", "docker_leftover")
#: Requested with an AWS connection of Airflow's database: in a task, and in the event loop of the triggerer.
BY_AIRFLOW = "docker_by_airflow"
IN_TRIGGER = "docker_in_trigger"
AWS_CONN_ID = "aws_ecr"
AIRFLOWS_KEY = "AKIAOFAIRFLOWSROWAWS"
AWS_ROW = {"conn_id": AWS_CONN_ID, "conn_type": "aws", "login": AIRFLOWS_KEY, "password": "a-secret-key-of-airflows"}
OF_WORKERS = ("docker_worker",)
DENIED = ("docker_denied", "docker_leftover")
LEFTOVER_HOST = "leftover.example.com"

PROJECT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
LAST_LINES_SECONDS = 1.0  # a task's log may end a little later than the task


@dataclass(frozen=True)
class Run:
    """
    The results of one run of Airflow.

    :param states: of the tasks
    :param logs: of the tasks, line by line
    :param lookups: by connection, the results of each process that looked it up
    :param printed: the connection that ``airflow connections get`` printed
    :param calls: by connection, the AWS operations that were called
    :param keys: by connection, the access keys of these calls
    :param valid: the passwords that are valid tokens
    :param output: the output of all components
    :param metrics: by connection, the metrics of this package that were sent to StatsD, without prefix and tags
    """

    states: dict[str, str]
    logs: dict[str, list[str]]
    lookups: dict[str, list[dict[str, Any]]]
    printed: dict[str, Any]
    calls: dict[str, list[str]]
    keys: dict[str, list[str]]
    valid: frozenset[str]
    output: str
    metrics: dict[str, list[str]]

    def served(self, conn_id: str) -> list[dict[str, str]]:
        """Return the connections that all lookups of a connection ID received."""
        return [connection for process in self.lookups[conn_id] for connection in process["connections"]]


def host_of(conn_id: str) -> str:
    return f"123456789012.dkr.ecr.{REGIONS[conn_id]}.amazonaws.com"


def run_airflow(folder: Path, aws: AwsStandIn, statsd: StatsD) -> Run:
    """
    Run both DAGs of the DAG folder, one after the other, and a command between them.

    :param folder: for all of its files
    :param aws: refuses the tokens of some connections
    :param statsd: receives Airflow's metrics
    """
    for conn_id in DENIED:
        aws.script(Error("AccessDeniedException", "User: u is not authorized", region=REGIONS[conn_id]))
    for name in ("dags", "results", "cache"):
        (folder / name).mkdir()
    by_airflow = {
        conn_id: {"registry": host_of(conn_id), "aws_conn_id": AWS_CONN_ID} for conn_id in (BY_AIRFLOW, IN_TRIGGER)
    }
    kwargs = json.dumps({"connections": {**hosts(OF_SECRETS), **by_airflow}, "cache_dir": str(folder / "cache")})
    configuration = f"[secrets]\nbackend = {BACKEND}\nbackend_kwargs = {kwargs}\n"
    variables = environment(aws, statsd, folder / "results")
    with AirflowSite(folder / "home", folder / "dags", variables, configuration) as site:
        start(site)
        run_dag(site, "by_secrets", {})
        command = {"AIRFLOW__SECRETS__BACKEND_KWARGS_CMD": f"echo {shlex.quote(kwargs)}"}
        site.run("connections get", "docker_default", "--output", "json", environment=command)
        run_dag(site, "by_workers", workers_environment())
        time.sleep(LAST_LINES_SECONDS)
    return collect(site, aws, statsd, folder / "results")


def environment(aws: AwsStandIn, statsd: StatsD, results: Path) -> dict[str, str]:
    return {
        **aws.environment(),
        **statsd.environment(),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",  # the dialect of StatsD that has tags
        RESULTS: str(results),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # 2.11 runs `airflow` for each task
        "PYTHONPATH": str(PROJECT),  # the DAG files import from the tests
        "PYTHONWARNINGS": "default",
        f"AIRFLOW_CONN_{AIRFLOWS_OWN.upper()}": "http://example.com",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",  # what most have
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "1",  # the same, before 3.0
    }


def workers_environment() -> dict[str, str]:
    """Return the variables of the scheduler's tasks: a backend in [workers] if this Airflow supports it."""
    kwargs = {"connections": hosts(OF_WORKERS), "cache": "process"}
    if not HAS_WORKERS_BACKEND:
        return {"AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs)}
    backend = {"AIRFLOW__WORKERS__SECRETS_BACKEND": BACKEND}
    if not HAS_KWARG_VARIABLES:
        return {**backend, "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS": json.dumps(kwargs)}
    return {
        **backend,
        "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARG__CONNECTIONS": json.dumps(kwargs["connections"]),
        "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARG__CACHE": "process",
    }


def hosts(conn_ids: Iterable[str]) -> dict[str, str]:
    return {conn_id: host_of(conn_id) for conn_id in conn_ids}


def start(site: AirflowSite) -> None:
    """Start everything except the scheduler. The database holds an AWS connection and a leftover Docker connection."""
    site.run("db migrate")
    leftover = {"host": LEFTOVER_HOST, "login": "AWS", "password": "expired-long-ago"}
    site.add_connection(conn_id="docker_leftover", conn_type="docker", **leftover)
    site.add_connection(**AWS_ROW)
    for server, options in {**SERVERS, "triggerer": ["--skip-serve-logs"]}.items():
        site.start(server, *options)
    site.wait(lambda: site.is_listening() or not SERVERS)


def run_dag(site: AirflowSite, dag_id: str, environment: dict[str, str]) -> None:
    """Run a new DAG once, with a new scheduler. Its tasks inherit the environment."""
    copy(DAGS / f"{dag_id}.py", site.home.parent / "dags")
    site.start("scheduler", "--skip-serve-logs", environment=environment)
    ended = "SELECT 1 FROM dag_run WHERE dag_id = ? AND state IN ('success', 'failed')"
    site.wait(lambda: site.ask(ended, dag_id))
    site.end("scheduler")


def collect(site: AirflowSite, aws: AwsStandIn, statsd: StatsD, results: Path) -> Run:
    lookups: dict[str, list[dict[str, Any]]] = {}
    for result in results.iterdir():
        lookups.setdefault(result.name.rsplit("-", 1)[0], []).append(json.loads(result.read_text()))
    output = site.printed("connections get")
    printed, _ = json.JSONDecoder().raw_decode(output[output.index("[{") :])
    looked_up = [connection for processes in lookups.values() for one in processes for connection in one["connections"]]
    passwords = {connection["password"] for connection in (*looked_up, *printed)}
    calls = {conn_id: aws.calls(region=region) for conn_id, region in REGIONS.items()}
    return Run(
        states=dict(site.ask("SELECT task_id, state FROM task_instance")),
        logs={log.parent.name.removeprefix("task_id="): log.read_text().splitlines() for log in site.task_logs()},
        lookups=lookups,
        printed=printed[0],
        calls={conn_id: [call.operation for call in own] for conn_id, own in calls.items()},
        keys={conn_id: [call.access_key_id for call in own] for conn_id, own in calls.items()},
        valid=frozenset(password for password in passwords if aws.authorise("AWS", password).valid),
        output="\n".join(log.read_text() for log in site.home.glob("*.log")),
        metrics=metrics(statsd),
    )


def metrics(statsd: StatsD) -> dict[str, list[str]]:
    sent: dict[str, list[str]] = {}
    for line in statsd.lines("airflow.ecr_secrets_backend."):
        name, conn_id = line.removeprefix("airflow.ecr_secrets_backend.").split(",")[:2]
        sent.setdefault(conn_id.removeprefix("conn_id="), []).append(name)
    return sent

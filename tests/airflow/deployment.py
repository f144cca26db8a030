"""A whole Airflow of any supported version: servers, tasks in their own processes, and a command."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import TYPE_CHECKING, Any

from examples.demo.airflow_site import AirflowSite
from tests.airflow.lookups import AIRFLOWS_OWN, RESULTS
from tests.airflow_version import HAS_KWARG_VARIABLES, HAS_WORKERS_BACKEND, SERVERS
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn, Call
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
HOSTS = {conn_id: f"123456789012.dkr.ecr.{region}.amazonaws.com" for conn_id, region in REGIONS.items()}
#: Requested with an AWS connection of Airflow's database: in a task, and in the event loop of the triggerer.
BY_AIRFLOW = "docker_by_airflow"
IN_TRIGGER = "docker_in_trigger"
AWS_CONN_ID = "aws_ecr"
AIRFLOWS_KEY = "AKIAOFAIRFLOWSROWAWS"
AWS_ROW = {"conn_id": AWS_CONN_ID, "conn_type": "aws", "login": AIRFLOWS_KEY, "password": "a-secret-key-of-airflows"}
LEFTOVER_HOST = "leftover.example.com"
LEFTOVER_ROW = {"conn_id": "docker_leftover", "conn_type": "docker", "host": LEFTOVER_HOST, "login": "AWS"}
IN_SECRETS: dict[str, object] = {
    **{conn_id: HOSTS[conn_id] for conn_id in ("docker_default", "docker_denied", "docker_leftover")},
    **{conn_id: {"registry": HOSTS[conn_id], "aws_conn_id": AWS_CONN_ID} for conn_id in (BY_AIRFLOW, IN_TRIGGER)},
}
IN_WORKERS = {"docker_worker": HOSTS["docker_worker"]}

PROJECT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
LAST_LINES_SECONDS = 1.0  # a task's log may end a little later than the task
METRICS = "airflow.ecr_secrets_backend."


@dataclass(frozen=True)
class Run:
    """One run of Airflow, which has ended, and what the stand-ins have recorded of it."""

    site: AirflowSite
    aws: AwsStandIn
    statsd: StatsD

    def state(self, task_id: str) -> str:
        ((state,),) = self.site.ask("SELECT state FROM task_instance WHERE task_id = ?", task_id)
        return str(state)

    def log(self, task_id: str = "*") -> list[str]:
        """Return the lines of a task's log."""
        return [line for log in self.site.task_logs(task_id) for line in log.read_text().splitlines()]

    def lookups(self, conn_id: str = "*") -> list[dict[str, Any]]:
        """Return what each process that looked a connection up has written: ``connections`` and ``warnings``."""
        return [json.loads(result.read_text()) for result in results_of(self.site).glob(f"{conn_id}-*.json")]

    def served(self, conn_id: str) -> list[dict[str, str]]:
        """Return the connections that all lookups of a connection ID received."""
        return [connection for process in self.lookups(conn_id) for connection in process["connections"]]

    def printed(self) -> dict[str, str]:
        """Return the connection that ``airflow connections get`` printed."""
        output = self.site.printed("connections get")
        (connection,), _ = json.JSONDecoder().raw_decode(output[output.index("[{") :])
        return dict(connection)

    def are_valid(self, connections: list[dict[str, str]]) -> list[bool]:
        return [self.aws.authorise("AWS", connection["password"]).valid for connection in connections]

    def calls(self, conn_id: str) -> list[Call]:
        """Return the AWS calls for a connection."""
        return self.aws.calls(region=REGIONS[conn_id])

    def metrics(self, conn_id: str) -> Counter[str]:
        """Count the metrics of this package that were sent for a connection, without prefix and tags."""
        lines = [line.removeprefix(METRICS).split(",") for line in self.statsd.lines(METRICS)]
        return Counter(name for name, tag, *_ in lines if tag == f"conn_id={conn_id}")


def run_airflow(folder: Path, aws: AwsStandIn, statsd: StatsD) -> Run:
    """
    Run both DAGs of the DAG folder, one after the other, and a command beside the second.

    :param folder: for all of its files
    :param aws: refuses the tokens of some connections
    :param statsd: receives Airflow's metrics
    """
    for conn_id in ("docker_denied", "docker_leftover"):
        aws.script(Error("AccessDeniedException", "User: u is not authorized", region=REGIONS[conn_id]))
    for name in ("dags", "cache"):
        (folder / name).mkdir()
    kwargs = json.dumps({"connections": IN_SECRETS, "cache_dir": str(folder / "cache")})
    configuration = f"[secrets]\nbackend = {BACKEND}\nbackend_kwargs = {kwargs}\n"
    variables = environment(aws, statsd, folder)
    with AirflowSite(folder / "home", folder / "dags", variables, configuration) as site:
        results_of(site).mkdir()
        site.run("db migrate")
        site.add_connection(**LEFTOVER_ROW, password="expired-long-ago")
        site.add_connection(**AWS_ROW)
        for server, options in {**SERVERS, "triggerer": ["--skip-serve-logs"]}.items():
            site.start(server, *options)
        site.wait(lambda: site.is_listening() or not SERVERS)
        run_dag(site, "by_secrets", {})
        as_command = {"AIRFLOW__SECRETS__BACKEND_KWARGS_CMD": f"echo {shlex.quote(kwargs)}"}
        command = site.start("connections get", "docker_default", "--output", "json", environment=as_command)
        run_dag(site, "by_workers", workers_environment())
        site.wait(lambda: command.poll() == 0)
        time.sleep(LAST_LINES_SECONDS)
    return Run(site, aws, statsd)


def results_of(site: AirflowSite) -> Path:
    return site.home / "results"


def environment(aws: AwsStandIn, statsd: StatsD, folder: Path) -> dict[str, str]:
    return {
        **aws.environment(),
        **statsd.environment(),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",  # the dialect of StatsD that has tags
        RESULTS: str(folder / "home/results"),
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
    kwargs = {"connections": IN_WORKERS, "cache": "process"}
    if not HAS_WORKERS_BACKEND:
        return {"AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs)}
    backend = {"AIRFLOW__WORKERS__SECRETS_BACKEND": BACKEND}
    if not HAS_KWARG_VARIABLES:
        return {**backend, "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS": json.dumps(kwargs)}
    return {
        **backend,
        "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARG__CONNECTIONS": json.dumps(IN_WORKERS),
        "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARG__CACHE": "process",
    }


def run_dag(site: AirflowSite, dag_id: str, environment: dict[str, str]) -> None:
    """Run a new DAG once, with a new scheduler. Its tasks inherit the environment."""
    copy(DAGS / f"{dag_id}.py", site.home.parent / "dags")
    site.start("scheduler", "--skip-serve-logs", environment=environment)
    ended = "SELECT 1 FROM dag_run WHERE dag_id = ? AND state IN ('success', 'failed')"
    site.wait(lambda: site.ask(ended, dag_id))
    site.end("scheduler")

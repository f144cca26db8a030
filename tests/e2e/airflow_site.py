"""Airflow as it is deployed: API server, scheduler and DAG processor as processes, tasks in processes of their own."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from subprocess import CompletedProcess

    from tests.e2e.world import World

API_PORT = 8080
COMPONENTS = ("api-server", "scheduler", "dag-processor")


class AirflowSite:
    """
    One Airflow in a world, on SQLite, which logs all that it can.

    :param world: where it runs
    :param settings: environment variables beside those that any such Airflow needs
    """

    def __init__(self, world: World, settings: Mapping[str, str]) -> None:
        self.home = world.folder / "airflow"
        self._world = world
        self._environment = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": "",  # whatever reaches the database can be found there
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            **settings,
        }
        self.run("db", "migrate")

    def run(self, *arguments: str) -> CompletedProcess[str]:
        """Run an ``airflow`` command."""
        return self._world.run("airflow", *arguments, environment=self._environment, timeout=120)

    def start(self, dag_id: str) -> None:
        """Start all components, and wait until a DAG of the DAG folder can be triggered."""
        for component in COMPONENTS:
            self._world.start(component, "airflow", component, environment=self._environment)
        self._world.wait(f"the DAG {dag_id}", lambda: self._world.ask(API_PORT, f"/api/v2/dags/{dag_id}"), 120)

    def run_dag(self, dag_id: str, seconds: float = 60) -> dict[str, str]:
        """
        Trigger a DAG and wait until it is done.

        :param seconds: how long at most
        :return: the state of each task
        """
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        run_id = self._world.ask(API_PORT, runs, {"logical_date": None})["dag_run_id"]

        def is_done() -> bool:
            return self._world.ask(API_PORT, f"{runs}/{run_id}")["state"] in ("success", "failed")

        self._world.wait(f"the run {run_id} of {dag_id}", is_done, seconds)
        tasks = self._world.ask(API_PORT, f"{runs}/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def last_log(self, task_id: str) -> Path:
        """Give the log of the latest run of a task."""
        logs = self.home.glob(f"logs/dag_id=*/run_id=*/task_id={task_id}/*.log")
        return max(logs, key=lambda log: log.stat().st_mtime)

    def logged(self) -> Iterator[tuple[str, str]]:
        """Give the text of every log, of components and of tasks, with its path."""
        for log in (*self.home.glob("logs/**/*.log"), *(self._world.folder / f"{name}.log" for name in COMPONENTS)):
            yield str(log), log.read_text(errors="replace")

    def stored(self) -> Iterator[tuple[str, str]]:
        """Give every value in the metadata database, with the table and column where it is."""
        with closing(connect(self.home / "airflow.db")) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608
                columns = [column for column, *_ in rows.description]
                for row in rows:
                    for column, value in zip(columns, row, strict=True):
                        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                        yield f"{table}.{column}", text

"""An Airflow in a world: each component runs as a process in its own process namespace, as in a container."""

from __future__ import annotations

import json
import secrets
from contextlib import closing, contextmanager
from sqlite3 import connect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.sites.world import World

API_PORT = 8080  # the sites of a world run one after another


class AirflowSite:
    """
    One Airflow, which logs at DEBUG. Its database is SQLite unless the settings name another.

    :param world: where it runs
    :param name: its folder in the world's
    :param dags: its DAG folder
    :param settings: environment variables of all components, besides those that every site needs
    """

    def __init__(self, world: World, name: str, dags: Path, settings: Mapping[str, str]) -> None:
        self.home = world.folder / name
        self._world = world
        self._components: list[str] = []
        self.environment = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": "",  # unencrypted, so that tests find a secret that reaches the database
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            **settings,
        }

    @classmethod
    @contextmanager
    def running(
        cls,
        world: World,
        name: str,
        dags: Path,
        settings: Mapping[str, str],
        components: Mapping[str, Mapping[str, str]],
    ) -> Iterator[AirflowSite]:
        """
        Run a site until the block ends.

        :param components: the ``airflow`` command of each component, and environment variables for it alone
        """
        site = cls(world, name, dags, settings)
        site.run("db", "migrate")
        try:
            for component, own in components.items():
                site.start(component, own)
            yield site
        finally:
            site.stop()

    def run(self, *arguments: str) -> CompletedProcess[str]:
        """Run an ``airflow`` command."""
        return self._world.run("airflow", *arguments, environment=self.environment, timeout=120)

    def start(self, component: str, own: Mapping[str, str]) -> None:
        """Start a component, which sees no processes but its own, as in a container."""
        name = f"{self.home.name}-{component.partition(' --')[0]}"
        environment = {**self.environment, **own}
        contained = (
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        )  # so that all its processes can be ended
        self._world.start(name, *contained, "airflow", *component.split(), environment=environment)
        self._components.append(name)

    def stop(self) -> None:
        """Kill all components and the processes that they started."""
        while self._components:
            self._world.stop(self._components.pop())

    def run_dag(self, dag_id: str, seconds: float = 60, conf: Mapping[str, object] | None = None) -> dict[str, str]:
        """
        Trigger a DAG as soon as Airflow has read it, and wait for the end of its run.

        :param seconds: the timeout
        :param conf: values for the DAG's params
        :return: the state of each task
        """
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        self._world.wait(f"the DAG {dag_id}", lambda: self._world.request(API_PORT, f"/api/v2/dags/{dag_id}"), 120)
        run_id = self._world.request(API_PORT, runs, {"logical_date": None, "conf": dict(conf or {})})["dag_run_id"]

        def is_done() -> bool:
            return self._world.request(API_PORT, f"{runs}/{run_id}")["state"] in ("success", "failed")

        self._world.wait(f"the run {run_id} of {dag_id}", is_done, seconds)
        tasks = self._world.request(API_PORT, f"{runs}/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def task_logs(self, dag_id: str) -> list[Path]:
        """Return the logs of all tasks of a DAG, from all runs."""
        return sorted(self.home.glob(f"logs/dag_id={dag_id}/**/*.log"))

    def last_log(self, task_id: str) -> Path:
        """Return the log of the latest run of a task."""
        logs = self.home.glob(f"logs/dag_id=*/run_id=*/task_id={task_id}/*.log")
        return max(logs, key=lambda log: log.stat().st_mtime)

    def events(self, task_id: str, event: str) -> list[dict[str, Any]]:
        """Return the log lines of a task's latest run that have this event."""
        logs = self.last_log(task_id).parent.glob("*.log")  # a trigger has its own
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def component_log(self, component: str) -> str:
        """Return the output of a component."""
        return (self._world.folder / f"{self.home.name}-{component}.log").read_text(errors="replace")

    def logged(self) -> Iterator[tuple[str, str]]:
        """Yield the path and text of every log, of components and tasks."""
        components = (self._world.folder / f"{name}.log" for name in self._components)
        for log in (*self.home.glob("logs/**/*.log"), *components):
            yield str(log), log.read_text(errors="replace")

    def stored(self) -> Iterator[tuple[str, str]]:
        """Yield every value in the metadata database, with its table and column."""
        with closing(connect(self.home / "airflow.db")) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608
                columns = [column for column, *_ in rows.description]
                for row in rows:
                    for column, value in zip(columns, row, strict=True):
                        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                        yield f"{table}.{column}", text

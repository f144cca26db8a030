"""Run a real Airflow in a folder: its servers, and a process for each task."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager, closing, suppress
from http.client import HTTPConnection, HTTPException
from sqlite3 import connect
from typing import TYPE_CHECKING, Any, TypeVar

import psutil  # type: ignore[import-untyped]  # comes with Airflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Result = TypeVar("Result")

CONFIGURATION = """\
[core]
dags_folder = {dags}
dags_are_paused_at_creation = False
execution_api_server_url = http://127.0.0.1:{port}/execution/
# Without encryption, a search finds all that is in the database.
fernet_key =
load_examples = False
parallelism = 6
[api]
host = 127.0.0.1
port = {port}
[api_auth]
jwt_secret = {jwt_secret}
[logging]
logging_level = DEBUG
[scheduler]
scheduler_idle_sleep_time = 0.2
"""
FOREIGN = re.compile("^(AIRFLOW|AWS|DOCKER|XDG)_|_proxy$", re.IGNORECASE)
AT_DEBUG = re.compile(r'\[debug |"level":"debug"')
TIMEOUT_SECONDS = 120
REQUEST_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.4
TAIL_LINES, TAIL_COLUMNS = 20, 800


def call(function: Callable[[], Result]) -> Result:
    return function()


class AirflowSite(AbstractContextManager["AirflowSite"]):
    """
    An Airflow that logs at DEBUG, on SQLite unless its settings name another database.

    Use it in a ``with`` statement, which ends its processes.

    :param folder: a new folder for its files
    :param dags: the DAG folder
    :param environment: variables that replace this process's own for Airflow, AWS, Docker and proxies
    :param configuration: more sections of ``airflow.cfg``
    :param prefix: words before each command, such as a command that starts it in other namespaces
    :param inside: calls a function in the network of the commands
    """

    def __init__(
        self,
        folder: Path,
        dags: Path,
        environment: Mapping[str, str],
        configuration: str = "",
        prefix: tuple[str, ...] = (),
        inside: Callable[[Callable[[], Any]], Any] = call,
    ) -> None:
        self.home = folder
        self.home.mkdir()
        inherited = {name: value for name, value in os.environ.items() if not FOREIGN.search(name)}
        places = dict.fromkeys(("AIRFLOW_HOME", "HOME", "TMPDIR"), str(folder))
        self._environment = {**inherited, **places, **environment}
        self._prefix = prefix
        self._inside = inside
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = int(environment.get("AIRFLOW__API__PORT") or inside(find_free_port))
        common = CONFIGURATION.format(dags=dags, port=self.port, jwt_secret=secrets.token_hex(32))
        (self.home / "airflow.cfg").write_text(common + configuration)

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(
        self, command: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """
        Start an ``airflow`` command.

        :param environment: more variables for this process
        """
        with self._output(command).open("ab") as output:
            self._processes[command] = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "airflow", *command.split(), *options],
                env={**self._environment, **(environment or {})},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C does not reach it, and `end` finds all its processes
            )
        return self._processes[command]

    def run(self, command: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Run an ``airflow`` command to its end."""
        process = self.start(command, *options, environment=environment)
        self.wait(lambda: process.poll() == 0)

    def end(self, *commands: str) -> None:
        """
        Kill processes, because Airflow 3.3's scheduler may miss a SIGTERM.

        :param commands: the commands to end; none means all
        """
        ending = [self._processes.pop(command) for command in commands or list(self._processes)]
        # A process that has ended with success has no others in its session, and its ID may be in use again.
        sessions = {process.pid for process in ending if process.poll() != 0}
        killed: set[int] = set()
        while (
            running := {pid for pid in psutil.pids() if session_of(pid) in sessions} - killed
        ):  # a process may have forked
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= running
        for process in ending:
            process.wait()

    def wait(self, is_done: Callable[[], Result], on_poll: Callable[[], object] = lambda: None) -> Result:
        """
        Wait until a function returns something true, and return it.

        :param on_poll: called at each poll before
        :raises ChildProcessError: a process has failed
        :raises TimeoutError: it is not done after the timeout
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (result := is_done()):
            if failed := [name for name, process in self._processes.items() if process.poll()]:
                raise ChildProcessError(f"airflow {failed[0]} has ended\n{self.tails()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow was not done after {TIMEOUT_SECONDS} s\n{self.tails()}")
            on_poll()
            time.sleep(POLL_SECONDS)
        return result

    def is_listening(self) -> bool:
        """Return whether the API server accepts connections; else tasks of Airflow 3.0 fail."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def run_dag(self, dag_id: str, conf: Mapping[str, object] | None = None) -> dict[str, str]:
        """
        Trigger a DAG as soon as Airflow has read it, and wait for the end of its run.

        :param conf: values for the DAG's params
        :return: the state of each task
        """
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        run = self.wait(lambda: self._request(runs, {"logical_date": None, "conf": dict(conf or {})}))
        path = f"{runs}/{run['dag_run_id']}"
        self.wait(lambda: (self._request(path) or run)["state"] in ("success", "failed"))
        tasks = self.wait(lambda: self._request(f"{path}/taskInstances"))["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Query or change the metadata database, which is SQLite."""
        with closing(connect(self.home / "airflow.db", timeout=TIMEOUT_SECONDS)) as database, database:
            return database.execute(query, values).fetchall()

    def add_connection(self, **fields: str | int) -> None:
        """Store a connection in the metadata database at once; ``airflow connections add`` takes seconds."""
        row = {**fields, "is_encrypted": 0, "is_extra_encrypted": 0}
        self.ask(f"INSERT INTO connection ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())  # noqa: S608

    def stored(self) -> Iterator[tuple[str, str]]:
        """Yield each value in the metadata database, after its table and column."""
        tables = "sqlite_master AS tables, pragma_table_info(tables.name) AS columns"
        for table, column in self.ask(f"SELECT tables.name, columns.name FROM {tables} WHERE tables.type = 'table'"):  # noqa: S608
            for (value,) in self.ask(f'SELECT "{column}" FROM "{table}"'):  # noqa: S608
                text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                yield f"{table}.{column}", text

    def task_logs(self, task_id: str = "*", dag_id: str = "*") -> list[Path]:
        """Return the logs of tasks, the oldest first."""
        logs = self.home.glob(f"logs/dag_id={dag_id}/run_id=*/task_id={task_id}/*.log")
        return sorted(logs, key=lambda log: log.stat().st_mtime)

    def logged(self, task_id: str = "*") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each line of the tasks' logs, after the task's ID."""
        for log in self.task_logs(task_id):
            for line in log.read_text(errors="replace").splitlines():
                yield log.parent.name.removeprefix("task_id="), json.loads(line)

    def events(self, task_id: str, event: str) -> list[dict[str, Any]]:
        """Return the lines of a task's logs that have this event."""
        return [line for _, line in self.logged(task_id) if line["event"] == event]

    def printed(self, command: str) -> str:
        """Return the output of a command."""
        return self._output(command).read_text(errors="replace")

    def tails(self) -> str:
        """Return the last lines of each log that are not at DEBUG."""
        tails = []
        for log in sorted(self.home.rglob("*.log")):
            lines = [line for line in log.read_text(errors="replace").splitlines() if not AT_DEBUG.search(line)]
            if lines:
                tails += [f"--- {log.relative_to(self.home)}", *(line[:TAIL_COLUMNS] for line in lines[-TAIL_LINES:])]
        return "\n".join(tails)

    def _output(self, command: str) -> Path:
        return self.home / f"{command}.log"

    def _request(self, path: str, body: object = None) -> Any:
        """Return the JSON that the API server answers to a GET, or to the POST of a body; None without success."""

        def send() -> Any:
            with closing(HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_SECONDS)) as connection:
                headers = {"Content-Type": "application/json"}
                connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
                answer = connection.getresponse()
                return json.load(answer) if answer.status < 400 else None

        with suppress(OSError, HTTPException):
            return self._inside(send)
        return None


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def session_of(pid: int) -> int | None:
    with suppress(OSError):  # the process has just ended
        return os.getsid(pid)
    return None

"""Run a real Airflow in a folder: API server, scheduler, DAG processor, and a process for each task."""

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
from contextlib import closing, suppress
from sqlite3 import connect
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]  # comes with Airflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

COMPONENTS = {"api-server": ["--apps=execution"], "dag-processor": [], "scheduler": ["--skip-serve-logs"]}
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
FOREIGN = re.compile("^(AIRFLOW|AWS)_|_proxy$", re.IGNORECASE)
TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.4


class AirflowSite:
    """
    An Airflow on SQLite, which logs at DEBUG.

    :param folder: a new folder for its files
    :param dags: the DAG folder
    :param configuration: more sections of ``airflow.cfg``
    :param environment: variables that replace this process's own for Airflow, AWS and proxies
    """

    def __init__(self, folder: Path, dags: Path, configuration: str, environment: Mapping[str, str]) -> None:
        self.home = folder
        self.home.mkdir()
        inherited = {name: value for name, value in os.environ.items() if not FOREIGN.search(name)}
        places = dict.fromkeys(("AIRFLOW_HOME", "HOME", "TMPDIR"), str(folder))
        self._environment = {**inherited, **places, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = free.getsockname()
        common = CONFIGURATION.format(dags=dags, port=self._address[1], jwt_secret=secrets.token_hex(32))
        (self.home / "airflow.cfg").write_text(common + configuration)

    def start(
        self, command: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """
        Start an ``airflow`` command, with its output in ``<command>.log``.

        :param environment: more variables for this process
        """
        with (self.home / f"{command}.log").open("ab") as log:
            self._processes[command] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command.split(), *options],
                env={**self._environment, **(environment or {})},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C does not reach it, and `end` finds all its processes
            )
        return self._processes[command]

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

    def until(self, is_done: Callable[[], object]) -> Iterator[None]:
        """
        Yield at each poll until something is done.

        :raises ChildProcessError: a process has failed
        :raises TimeoutError: it is not done after the timeout
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not is_done():
            if failed := [name for name, process in self._processes.items() if process.poll()]:
                raise ChildProcessError(f"airflow {failed[0]} has ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow was not done after {TIMEOUT_SECONDS} s")
            yield
            time.sleep(POLL_SECONDS)

    def is_listening(self) -> bool:
        """Return whether the API server accepts connections; else tasks of Airflow 3.0 fail."""
        with socket.socket() as client:
            return client.connect_ex(self._address) == 0

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Query the metadata database."""
        with closing(connect(self.home / "airflow.db")) as database:
            return database.execute(query).fetchall()

    def stored(self) -> Iterator[tuple[str, str]]:
        """Yield each value in the metadata database, after its table."""
        for (table,) in self.ask("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in self.ask(f'SELECT * FROM "{table}"'):  # noqa: S608
                for value in row:
                    yield f"table {table}", value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def logged(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each line of the tasks' logs, after the task's ID."""
        for log in self.home.glob("logs/dag_id=*/run_id=*/task_id=*/*.log"):
            for line in log.read_text(errors="replace").splitlines():
                yield log.parent.name.removeprefix("task_id="), json.loads(line)


def session_of(pid: int) -> int | None:
    with suppress(OSError):  # the process has just ended
        return os.getsid(pid)
    return None

"""Logins and connections that earlier solutions stored, and that processes without the backend use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.check.registry import DENIED, RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, default_folder
from ecr_secrets_backend.logins import Login

DATABASE_TIMEOUT_SECONDS: Final = 5.0
MAX_FILES: Final = 5000  # a DAG folder may have any number of files
LARGEST_FILE_BYTES: Final = 1024 * 1024
#: Calls with which DAGs and scripts request a token, which they then store.
_REFRESH: Final = re.compile(
    rb"get_authorization_token|get-authorization-token|get-login-password|get_temporary_credentials|EcrHook"
)


def check_docker_logins(login: Login) -> Iterator[StepResult]:
    """Check that the registry accepts the login in Docker's own configuration, if there is one."""
    config = DockerConfig.load(default_folder())
    name = config.winning_name(login.host)
    found = config.login(name) if name else None
    if found in (None, (login.token.username, login.token.password)):
        return
    with suppress(CheckFailed):  # an earlier step reports a registry that does not answer
        if RegistryClient(login.host, found).get("/v2/").status in DENIED:
            problem = f'the registry refuses auths["{name}"] in {config.path}: pulls without the connection use it'
            fix = f"Run docker logout {name}, or renew the login with ecr-secrets-backend docker-config."
            yield StepResult(problem, "warning", "stale-auth", fix)


def check_other_definitions(conn_id: str) -> Iterator[StepResult]:
    """Check for other connections with the same ID."""
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if variable in os.environ:
        problem = f"the environment variable {variable} also defines the connection"
        fix = "Remove it: processes without the backend use it."
        yield StepResult(problem, "warning", "leftover-variable", fix)
    if row := _find_row(conn_id):
        problem = f"the metadata database also has a connection with this ID (host {row[0]}, login {row[1]})"
        fix = (
            f"Run airflow connections delete {conn_id}: processes without the backend use it, and Airflow before 3.2.2"
            " uses it if a lookup fails."
        )
        yield StepResult(problem, "warning", "leftover-row", fix)


def _find_row(conn_id: str) -> tuple[str, str] | None:
    """Return a connection's host and login in the metadata database, if this process can query it."""
    from airflow.configuration import conf

    url = conf.get("database", "sql_alchemy_conn", fallback="")
    if not url or (url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()):
        return None

    def find() -> tuple[str, str] | None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        with create_engine(url, poolclass=NullPool).connect() as database:
            query = text("SELECT host, login FROM connection WHERE conn_id = :id")
            row = database.execute(query, {"id": conn_id}).first()
            return (str(row[0]), str(row[1])) if row else None

    with suppress(Exception):  # a worker of Airflow 3 has no database, by one of many exceptions
        return within(DATABASE_TIMEOUT_SECONDS, find)
    return None


def check_dags() -> Iterator[StepResult]:
    """Check for DAGs that renew a stored login."""
    from airflow.configuration import conf

    folder = Path(conf.get("core", "dags_folder"))
    scripts = (path for path in folder.rglob("*") if path.suffix in (".py", ".sh"))
    found = [str(path.relative_to(folder)) for path in islice(scripts, MAX_FILES) if _renews_login(path)]
    if found:
        problem = f"{len(found)} file(s) in {folder} seem to renew ECR logins: {', '.join(found[:3])}"
        fix = "Pause and remove such DAGs: nothing uses the logins that they store, which may leak."
        yield StepResult(problem, "warning", "leftover-dag", fix)


def _renews_login(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= LARGEST_FILE_BYTES:  # a pipe would block
            return bool(_REFRESH.search(path.read_bytes()))
    return False

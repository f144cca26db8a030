"""What earlier solutions have left behind, and what would be used where the backend is not asked or fails."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.check.result import Told
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, default_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecr_secrets_backend.cli.check.registry import RegistryClient
    from ecr_secrets_backend.logins import Login

DATABASE_SECONDS: Final = 5.0
#: A DAG folder may hold anything.
MOST_FILES: Final = 5000
LARGEST_FILE_BYTES: Final = 1024 * 1024
#: How DAGs, operators and scripts get a token that they then store.
_REFRESH: Final = re.compile(
    r"get_authorization_token|get-authorization-token|get-login-password|get_temporary_credentials|EcrHook"
)


def stale_logins(login: Login, client: RegistryClient) -> Iterator[Told]:
    """Look for logins for the registry in Docker's own configuration, and try each."""
    config = DockerConfig.load(default_folder())
    for name in config.names(login.host):
        found = config.login(name)
        if found is None or found == (login.token.username, login.token.password):
            continue
        try:
            is_refused = client.get("/v2/", found).status in (401, 403)
        except OSError:
            continue
        if is_refused:
            yield Told(
                f'auths["{name}"] in {config.path} is a login that the registry refuses: whoever pulls without this'
                " connection, docker pull or a DockerOperator without docker_conn_id, uses it",
                "warning",
                "stale-auth",
                f"Remove it by docker logout {name}, or keep it alive by ecr-secrets-backend docker-config.",
            )


def other_definitions(conn_id: str) -> Iterator[Told]:
    """Look for other connections of the same ID: they win wherever the backend is not configured."""
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if variable in os.environ:
        yield Told(
            f"the environment variable {variable} defines the connection as well",
            "warning",
            "leftover-variable",
            "Remove it: it would be used by processes without the backend.",
        )
    row = _row(conn_id)
    if row is not None:
        yield Told(
            f"the metadata database holds a connection of this ID as well (host {row[0]}, login {row[1]})",
            "warning",
            "leftover-row",
            f"Remove it by airflow connections delete {conn_id}: processes without the backend would use it, and"
            " Airflow before 3.2.2 does whenever a lookup fails.",
        )


def _row(conn_id: str) -> tuple[str, str] | None:
    """Find a connection in the metadata database, where this process may and can ask it."""
    from airflow.configuration import conf

    url = conf.get("database", "sql_alchemy_conn", fallback="")
    if not url or (url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()):
        return None

    def find() -> tuple[str, str] | None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        with create_engine(url, poolclass=NullPool).connect() as database:
            found = database.execute(text("SELECT host, login FROM connection WHERE conn_id = :id"), {"id": conn_id})
            row = found.first()
            return (str(row[0]), str(row[1])) if row else None

    try:
        return within(DATABASE_SECONDS, find)
    except Exception:  # noqa: BLE001 - a worker of Airflow 3 has no database, by one of many exceptions
        return None


def refresh_dags() -> Iterator[Told]:
    """Look for DAGs that renew a stored login, as was done before."""
    from airflow.configuration import conf

    folder = Path(conf.get("core", "dags_folder"))
    found = [path for path in _sources(folder) if _refreshes(path)]
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:3])
        yield Told(
            f"{len(found)} file{'s' if len(found) > 1 else ''} in {folder} seem to renew ECR logins: {names}",
            "warning",
            "leftover-dag",
            "Pause and remove such DAGs: what they store is not used any more, and is there to leak.",
        )


def _sources(folder: Path) -> Iterator[Path]:
    seen = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".py", ".sh")):
                seen += 1
                if seen > MOST_FILES:
                    return
                yield Path(parent) / name


def _refreshes(path: Path) -> bool:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            return False
        return bool(_REFRESH.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False

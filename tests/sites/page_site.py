"""An API server with the page in Airflow's UI, and users of three roles, whatever its version."""

from __future__ import annotations

import json
import secrets
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import connect
from typing import TYPE_CHECKING, Any

import httpx

from examples.demo.airflow_site import AirflowSite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.stand_ins.aws import AwsStandIn

PAGE = "/ecr-secrets-backend/"
JSON = "/ecr-secrets-backend/api/connections"
#: Airflow lets a viewer see no connection; the last one may look, by the auth manager of the tests.
USERS = {"admin": "admin", "op": "op", "viewer": "viewer", "reader": "viewer"}
AUTH_MANAGER = "tests.stand_ins.auth_manager.ReaderAuthManager"
PROJECT = Path(__file__).parents[2]
BACKEND = "ecr_secrets_backend.EcrSecretsBackend"
PATIENCE_SECONDS = 60  # of a request, on a machine that is busy


@dataclass(frozen=True)
class PageSite:
    """
    The running server.

    :param url: where it listens
    :param passwords: of the users
    :param cache: the folder that is ``cache_dir``
    """

    url: str
    passwords: Mapping[str, str]
    home: Path
    cache: Path

    def client(self, user: str | None = "admin") -> httpx.Client:
        """Give a client of a user, or of nobody."""
        return httpx.Client(base_url=self.url, headers=self._login(user), timeout=PATIENCE_SECONDS)

    def token(self, user: str) -> str:
        """Give what Airflow's UI keeps as a cookie."""
        login = {"username": user, "password": self.passwords[user]}
        answer = httpx.post(f"{self.url}/auth/token", json=login, timeout=PATIENCE_SECONDS)
        return str(answer.raise_for_status().json()["access_token"])

    def _login(self, user: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"} if user else {}

    def rows(self, text: str = "") -> dict[str, dict[str, Any]]:
        """Give the connections of the JSON that have a text in them, by ID."""
        with self.client() as client:
            answer = client.get(JSON, params={"q": text}).raise_for_status().json()
        return {row["conn_id"]: row for row in answer["connections"]}

    def check(self, conn_id: str, section: str = "secrets", **headers: str) -> httpx.Response:
        """Do what the button does."""
        with self.client() as client:
            url = f"{JSON}/{conn_id}/check"
            return client.post(url, params={"section": section}, headers=headers, json={})

    def log(self) -> str:
        """Give all that the server has logged."""
        return (self.home / "api-server.log").read_text(errors="replace")


@contextmanager
def serve_page(
    folder: Path,
    aws: AwsStandIn,
    sections: Mapping[str, Mapping[str, object]],
    options: Mapping[str, str],
    rows: Mapping[str, tuple[str, str]],
) -> Iterator[PageSite]:
    """
    Run it until the block ends.

    :param folder: for all of its files
    :param aws: where it requests tokens
    :param sections: the backend's kwargs in ``secrets`` and ``workers``, each if the backend is to be there
    :param options: environment variables
    :param rows: connections in the metadata database, with their type and login
    """
    names = {"secrets": "backend", "workers": "secrets_backend"}
    configuration = "\n".join(
        f"[{section}]\n{names[section]} = {BACKEND}\n{names[section]}_kwargs = {json.dumps(kwargs).replace('%', '%%')}"
        for section, kwargs in sections.items()
    )
    passwords = {user: secrets.token_urlsafe() for user in USERS}
    (folder / "passwords.json").write_text(json.dumps(passwords))
    (folder / "dags").mkdir()
    environment = {
        **aws.environment(),
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        **options,
    }
    site = AirflowSite(folder / "home", folder / "dags", f"{configuration}\n", environment)
    try:
        migration = site.start("db migrate")
        for _ in site.until(lambda: migration.poll() == 0):
            pass
        with closing(connect(site.home / "airflow.db")) as database, database:
            database.executemany(
                "INSERT INTO connection (conn_id, conn_type, login, password, is_encrypted, is_extra_encrypted)"
                " VALUES (?, ?, ?, 'a-password-in-the-database', 0, 0)",
                [(conn_id, *fields) for conn_id, fields in rows.items()],
            )
        site.start("api-server")
        for _ in site.until(site.is_listening):
            pass
        yield PageSite(f"http://127.0.0.1:{site._address[1]}", passwords, site.home, folder / "cache")
    finally:
        site.end()

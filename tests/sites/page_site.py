"""An API server of any Airflow that has the page in its UI, with users of three roles."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from examples.demo.airflow_site import AirflowSite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.stand_ins.aws import AwsStandIn

PAGE = "/ecr-secrets-backend/"
JSON = "/ecr-secrets-backend/api/connections"
#: Airflow lets a viewer see no connection. The auth manager of the tests lets the reader see most of them.
USERS = {"admin": "admin", "op": "op", "viewer": "viewer", "reader": "viewer"}
AUTH_MANAGER = "tests.stand_ins.auth_manager.ReaderAuthManager"
PROJECT = Path(__file__).parents[2]
BACKEND = "ecr_secrets_backend.EcrSecretsBackend"
DATABASE_PASSWORD = "a-password-in-the-database"
REQUEST_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class PageSite:
    """A running server.

    :param passwords: by user
    """

    airflow: AirflowSite
    passwords: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.airflow.port}"

    def client(self, user: str | None = "admin") -> httpx.Client:
        """Return the client of a user; None: an anonymous one."""
        headers = {"Authorization": f"Bearer {self.token(user)}"} if user else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS)

    def token(self, user: str) -> str:
        """Return the token that Airflow's UI keeps in a cookie."""
        login = {"username": user, "password": self.passwords[user]}
        answer = httpx.post(f"{self.url}/auth/token", json=login, timeout=REQUEST_TIMEOUT_SECONDS)
        return str(answer.raise_for_status().json()["access_token"])

    def rows(self, text: str = "") -> dict[str, dict[str, Any]]:
        """Return the connections of the JSON that contain a text, by ID."""
        with self.client() as client:
            answer = client.get(JSON, params={"q": text}).raise_for_status().json()
        return {row["conn_id"]: row for row in answer["connections"]}

    def check(self, conn_id: str, section: str = "secrets", **headers: str) -> httpx.Response:
        """Send the request of the button *Check*."""
        with self.client() as client:
            return client.post(f"{JSON}/{conn_id}/check", params={"section": section}, headers=headers, json={})


@contextmanager
def serve_page(
    folder: Path,
    aws: AwsStandIn,
    sections: Mapping[str, Mapping[str, object]],
    options: Mapping[str, str],
    rows: Mapping[str, tuple[str, str]],
) -> Iterator[PageSite]:
    """Run a server until the block ends.

    :param folder: for all of its files
    :param sections: the backend's kwargs in ``secrets`` and ``workers``, if the section is to name the backend
    :param options: environment variables
    :param rows: the type and login of connections in the metadata database, by ID
    """
    names = {"secrets": "backend", "workers": "secrets_backend"}
    configuration = "".join(
        f"[{section}]\n{names[section]} = {BACKEND}\n{names[section]}_kwargs = {json.dumps(kwargs)}\n"
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
    with AirflowSite(folder / "home", folder / "dags", environment, configuration) as airflow:
        airflow.run("db migrate")
        for conn_id, (conn_type, login) in rows.items():
            airflow.add_connection(conn_id=conn_id, conn_type=conn_type, login=login, password=DATABASE_PASSWORD)
        airflow.start("api-server")
        airflow.wait(airflow.is_listening)
        yield PageSite(airflow, passwords)

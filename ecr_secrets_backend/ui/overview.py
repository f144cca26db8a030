"""What the page shows: each mapped connection, and what this host's cache holds for it. Looking requests no token."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.output import iso_time
from ecr_secrets_backend.cli.status import describe
from ecr_secrets_backend.cli.survey import Survey, read_entries
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import ConfigurationError, TokenError, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.logins import Logins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecr_secrets_backend.cli.configuration import Configuration
    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.settings import MappedConnection

#: Each state of a connection, and what it means.
STATES: Final = {
    "valid": "a valid token, served at once",
    "renewal_due": "a valid token, which the next lookup renews",
    "failed": "no valid token, and the last request for one failed",
    "none": "no valid token; the next lookup requests one",
    "unknown": "not known here: other secrets backends are asked for its AWS connection first",
}
_SERVABLE: Final = {"fresh": "valid", "renewing": "renewal_due"}
_FIX: Final = f"Set [secrets] backend = {configuration.BACKEND} and backend_kwargs, and restart the API server."


@dataclass(frozen=True)
class Sections:
    """What this process's Airflow is configured with.

    :param configured: by the section's name, each that has the backend
    :param problems: what is wrong or missing, a line each
    """

    configured: Mapping[str, Configuration]
    problems: tuple[str, ...]

    @classmethod
    def read(cls) -> Sections:
        """Read both sections, as Airflow does at the start of a server and of a task."""
        from airflow.configuration import conf

        workers = conf.get("workers", "secrets_backend", fallback="")
        has_workers = workers.startswith(f"{__name__.partition('.')[0]}.")
        configured: dict[str, Configuration] = {}
        problems: list[str] = []
        for section in ("secrets", "workers") if has_workers else ("secrets",):
            try:
                configured[section] = configuration.from_airflow(section)
            except ConfigurationError as error:  # noqa: PERF203 - there are two sections
                problems.append(f"{error}.")
            except CommandError as error:
                problems.append(f"{error.problem}. {_FIX}")
        return cls(configured, tuple(problems))

    @property
    def other_backends(self) -> tuple[str, ...]:
        """What an API server asks, in this order, for a connection that is not mapped."""
        configured = self.configured.get("secrets")
        fallback = configured.settings.fallback_backends if configured else ()
        return (*(each.backend for each in fallback), "environment variables", "the metadata database")

    def look(self) -> list[dict[str, Any]]:
        """Return each mapped connection, by its ID, with what the cache holds for it.

        Those of ``[workers]`` are returned where they differ from those of ``[secrets]``.
        """
        stored = _ids_in_database()
        shown: set[tuple[object, ...]] = set()
        rows = []
        for section, configured in self.configured.items():
            settings = configured.settings
            rows_by_id = {row["conn_id"]: row for row in _look(configured)}
            for conn_id, mapped in settings.connections.items():
                served = (mapped, settings.cache, settings.cache_dir, settings.refresh_before)
                if served not in shown:
                    shown.add(served)
                    also = ["environment"] if f"AIRFLOW_CONN_{conn_id.upper()}" in os.environ else []
                    also += ["database"] if conn_id in stored else []
                    rows.append({**rows_by_id[conn_id], "section": section, "also_defined_in": also})
        return sorted(rows, key=lambda row: (row["conn_id"], row["section"]))


def _look(configured: Configuration) -> Iterator[dict[str, Any]]:
    store, settings = configured.store, configured.settings
    entries = {entry.key: entry for entry in read_entries(store, Survey.of(store))} if store else {}
    logins = Logins(TokenCache(store, settings.refresh_before), _look_up_locally)
    # The connections of an identity have one entry.
    found: dict[AwsIdentity, tuple[AwsIdentity | TokenFailure | None, Entry | None]] = {}
    for mapped in settings.connections.values():
        if mapped.identity not in found:
            outcome = _resolve(logins, mapped, asks_others=bool(settings.fallback_backends))
            found[mapped.identity] = outcome, entries.get(outcome.key) if isinstance(outcome, AwsIdentity) else None
        outcome, entry = found[mapped.identity]
        fields = describe(entry or Entry(""), settings.refresh_before)
        if isinstance(outcome, TokenFailure):
            fields["failure"] = {**outcome.to_json(), "at": iso_time(time.time())}
        without_token = "failed" if fields["failure"] else "none"
        yield {
            "conn_id": mapped.conn_id,
            "registry": mapped.host or (entry.token.registry if entry and entry.token else None),
            "region": (outcome if isinstance(outcome, AwsIdentity) else mapped.identity).region,
            "identity": str(mapped.identity),
            **fields,
            "state": _SERVABLE.get(fields["state"], without_token) if outcome else "unknown",
        }


def _resolve(logins: Logins, mapped: MappedConnection, *, asks_others: bool) -> AwsIdentity | TokenFailure | None:
    """Return a connection's identity in this process, or why there is none; None if it is not known here."""
    if mapped.identity.aws_conn_id is not None and asks_others:
        return None
    try:
        return logins.resolve(mapped)[0]
    except TokenError as error:
        return error.failure


def _look_up_locally(aws_conn_id: str) -> AwsConnection:
    """Look up an AWS connection where Airflow looks last: other secrets backends are asked over the network."""
    from airflow.exceptions import AirflowNotFoundException  # type: ignore[attr-defined]  # the SDK has it from 3.2 on
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend
    from airflow.secrets.metastore import MetastoreBackend

    for backend in (EnvironmentVariablesBackend(), MetastoreBackend()):
        connection = backend.get_connection(aws_conn_id)
        if connection is not None:
            return connection
    raise AirflowNotFoundException(aws_conn_id)


def _ids_in_database() -> set[str]:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return set(session.scalars(select(Connection.conn_id)))

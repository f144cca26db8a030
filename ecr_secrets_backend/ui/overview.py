"""The mapped connections of this process's Airflow, with their tokens in this host's cache. No token is requested."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.cache_folder import CacheFolder
from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.output import iso_time
from ecr_secrets_backend.cli.status import describe
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import ConfigurationError, TokenError, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.logins import Logins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecr_secrets_backend.cli.configuration import Configuration
    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.settings import MappedConnection


#: The meaning of each state of a connection.
STATES: Final = {
    "valid": "The cache has a valid token.",
    "renewal_due": "The cache has a valid token. The next lookup renews it.",
    "failed": "The cache has no valid token, and the last request for one failed.",
    "none": "The cache has no valid token. The next lookup requests one.",
    "unknown": "fallback_backends may define the AWS connection. This page does not read them.",
}
_STATES_OF_TOKENS: Final = {"fresh": "valid", "renewing": "renewal_due"}
_FIX: Final = f"Set [secrets] backend = {configuration.BACKEND} and backend_kwargs, and restart the API server."


@dataclass(frozen=True)
class Overview:
    """The configuration of this process's Airflow.

    :param configurations: by section, if the section names this backend
    :param problems: a line for each problem of the configuration
    """

    configurations: Mapping[str, Configuration]
    problems: tuple[str, ...]

    @classmethod
    def read(cls) -> Overview:
        """Read both sections, as Airflow reads them at the start of a server and of a task."""
        from airflow.configuration import conf

        workers = conf.get("workers", "secrets_backend", fallback="")
        has_workers = workers.startswith(f"{__name__.partition('.')[0]}.")
        configurations: dict[str, Configuration] = {}
        problems: list[str] = []
        for section in ("secrets", "workers") if has_workers else ("secrets",):
            try:
                configurations[section] = configuration.from_airflow(section)
            except ConfigurationError as error:  # noqa: PERF203 - there are two sections
                problems.append(f"{error}.")
            except CommandError as error:
                problems.append(f"{error.problem}. {_FIX}")
        return cls(configurations, tuple(problems))

    @property
    def other_backends(self) -> tuple[str, ...]:
        """Return the backends in which an API server looks up a connection that is not mapped, in this order."""
        config = self.configurations.get("secrets")
        fallback = config.settings.fallback_backends if config else ()
        return (*(each.backend for each in fallback), "environment variables", "the metadata database")

    def rows(self) -> list[dict[str, Any]]:
        """Return the mapped connections by ID, with their tokens in the cache.

        Those of ``[workers]`` are returned if they differ from those of ``[secrets]``.
        """
        in_database = _read_conn_ids()
        rows: dict[tuple[object, ...], dict[str, Any]] = {}
        for section, config in self.configurations.items():
            settings = config.settings
            for mapped, row in zip(settings.connections.values(), _build_rows(config), strict=True):
                others = ["environment"] if f"AIRFLOW_CONN_{mapped.conn_id.upper()}" in os.environ else []
                others += ["database"] if mapped.conn_id in in_database else []
                key = (mapped, settings.cache, settings.cache_dir, settings.refresh_before)
                rows.setdefault(key, {**row, "section": section, "also_defined_in": others})
        return sorted(rows.values(), key=lambda row: (row["conn_id"], row["section"]))


def _build_rows(config: Configuration) -> Iterator[dict[str, Any]]:
    settings = config.settings
    logins = Logins(settings, _look_up_aws_connection)
    entries = {entry.key: entry for entry in CacheFolder.inspect(logins.store).entries(logins.store)}
    # All connections of an identity have the same entry.
    found: dict[AwsIdentity, tuple[AwsIdentity | TokenFailure | None, Entry | None]] = {}
    for mapped in settings.connections.values():
        if mapped.identity not in found:
            outcome = _resolve(logins, mapped, has_fallback=bool(settings.fallback_backends))
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
            "state": _STATES_OF_TOKENS.get(fields["state"], without_token) if outcome else "unknown",
        }


def _resolve(logins: Logins, mapped: MappedConnection, *, has_fallback: bool) -> AwsIdentity | TokenFailure | None:
    """Return a connection's identity in this process, or its failure; None if fallback backends may define it."""
    if mapped.identity.aws_conn_id is not None and has_fallback:
        return None
    try:
        return logins.resolve(mapped)[0]
    except TokenError as error:
        return error.failure


def _look_up_aws_connection(aws_conn_id: str) -> AwsConnection:
    """Look up an AWS connection in Airflow's own backends, but not in others, which are on the network."""
    from airflow.exceptions import AirflowNotFoundException  # type: ignore[attr-defined]  # the SDK has it from 3.2 on
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend
    from airflow.secrets.metastore import MetastoreBackend

    for backend in (EnvironmentVariablesBackend(), MetastoreBackend()):
        if connection := backend.get_connection(aws_conn_id):
            return connection
    raise AirflowNotFoundException(aws_conn_id)


def _read_conn_ids() -> set[str]:
    """Return the IDs of the connections in the metadata database."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return set(session.scalars(select(Connection.conn_id)))

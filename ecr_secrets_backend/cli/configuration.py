"""The configuration that a command uses: the one that Airflow would use in this process, or a file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.cli.command import CommandError, argument, quiet
from ecr_secrets_backend.errors import (
    ConfigurationError,
    ConnectionUnavailableError,
    EcrSecretsBackendError,
    TokenError,
)
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.settings import Settings

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.logins import Login
    from ecr_secrets_backend.settings import MappedConnection

BACKEND: Final = "ecr_secrets_backend.EcrSecretsBackend"

_SERVER_KWARGS: Final = "[secrets] backend_kwargs"
_WORKER_KWARGS: Final = "[workers] secrets_backend_kwargs"
_FIX: Final = (
    f"Set [secrets] backend = {BACKEND} and backend_kwargs for this process, run the command with the environment of"
    " the process that has it, or name a file by --backend-kwargs."
)

CONN_ID: Final = "CONN_ID"
CONN_IDS: Final = argument("conn_ids", metavar=CONN_ID, nargs="*", help="mapped connections (default: all)")
SECTION: Final = argument(
    "--section",
    choices=("workers", "secrets"),
    help="the section of Airflow's configuration to read (default: as a worker does, that of workers\n"
    "where it sets secrets_backend, else that of secrets)",
)
BACKEND_KWARGS: Final = argument(
    "--backend-kwargs",
    metavar="FILE",
    help="read the backend's kwargs, as JSON, from this file (-: from standard input) and not from Airflow",
)
ARGUMENTS: Final = (SECTION, BACKEND_KWARGS)

#: What Airflow 3 gives its tasks, and all that they start, in place of its database's URL. SQLAlchemy cannot read it,
#: so no other process can import Airflow there. Source: ``block_orm_access`` of its supervisor. 3.3.2 still does so.
_FORBIDDEN_DATABASE: Final = "airflow-db-not-allowed:///"
_DATABASE_VARIABLES: Final = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
_EMPTY_DATABASE: Final = "sqlite://"  # in memory


@dataclass(frozen=True)
class Configuration:
    """The settings that a command uses.

    :param source: where they were read, for messages
    :param from_airflow: whether they are those of Airflow's own backend, in this process
    """

    settings: Settings
    source: str
    from_airflow: bool

    @cached_property
    def store(self) -> HostStore | None:
        """The host's cache; None if the settings want none."""
        return HostStore(self.settings.cache_dir) if self.settings.cache == "host" else None

    @cached_property
    def logins(self) -> Logins:
        """What gets logins as the backend does, through the same cache."""
        return Logins(TokenCache(self.store, self.settings.refresh_before), self._aws_connection)

    def login(self, mapped: MappedConnection) -> Login:
        """Get a connection's login.

        :raises ConnectionUnavailableError: there is none
        """
        try:
            return self.logins.get(mapped)
        except TokenError as error:
            raise ConnectionUnavailableError(mapped.conn_id, error.failure) from None

    def key(self, mapped: MappedConnection) -> str | None:
        """Return the key of a connection's entry in the cache; None if its identity cannot be found."""
        try:
            return self.logins.resolve(mapped)[0].key
        except TokenError:
            return None

    def connection(self, conn_id: str) -> MappedConnection:
        """Find a connection.

        :raises CommandError: the backend does not map it
        """
        try:
            return self.settings.connections[conn_id]
        except KeyError:
            mapped = ", ".join(sorted(self.settings.connections))
            raise CommandError(
                f"The connection {conn_id!r} is not mapped in {self.source}", f"Mapped are: {mapped}."
            ) from None

    def connections(self, conn_ids: list[str]) -> list[MappedConnection]:
        """Find connections: all of them if none is named."""
        return [self.connection(conn_id) for conn_id in conn_ids or self.settings.connections]

    def _aws_connection(self, aws_conn_id: str) -> AwsConnection:
        """Look up an AWS connection as the backend does: with its fallback backends, which Airflow asks through it."""
        _allow_import_in_task_child()
        from airflow.models.connection import Connection

        fallback = FallbackChain(self.settings.fallback_backends)
        fallback.set_connection_class(Connection)
        connection: AwsConnection | None = fallback.look_up("get_connection", conn_id=aws_conn_id)
        if connection is None:
            with quiet():
                connection = Connection.get_connection_from_secrets(aws_conn_id)
        return connection


def read(options: argparse.Namespace) -> Configuration:
    """Read the configuration that the command line chooses.

    :raises CommandError: there is none
    :raises ConfigurationError: it is not valid
    """
    if options.backend_kwargs is None:
        return from_airflow(options.section)
    if options.section is not None:
        raise CommandError("Both --section and --backend-kwargs were given", "Leave one of them off.")
    return _of_file(options.backend_kwargs)


def complete(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Offer the connections that are mapped, for the shell's completion."""
    try:
        connections = read(parsed_args).settings.connections
    except EcrSecretsBackendError:
        return []
    return [conn_id for conn_id in connections if conn_id.startswith(prefix)]


def _of_file(name: str) -> Configuration:
    source = "standard input" if name == "-" else name
    try:
        kwargs = json.loads(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except OSError as error:
        raise CommandError(
            f"{source} cannot be read: {error.strerror}", "Name a file that this user may read."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{source} is not JSON: {error}", "Write the object that is in backend_kwargs.") from None
    if not isinstance(kwargs, dict):
        raise CommandError(f"{source} is not a JSON object", 'Write one such as {"connections": {…}}.')
    return Configuration(Settings.parse(kwargs), source, from_airflow=False)


def from_airflow(section: str | None) -> Configuration:
    """Have Airflow read its configuration and build the backend, as it would for a task.

    :param section: ``secrets`` or ``workers``; None: the one that a worker reads
    :raises CommandError: the backend is not configured there
    :raises ConfigurationError: it is not valid
    """
    _allow_import_in_task_child()
    try:
        from airflow import configuration
    except ConfigurationError as error:  # Airflow builds the backend of [secrets] while it is imported
        raise ConfigurationError(f"{_SERVER_KWARGS}: {error.path}", error.problem, error.fix) from None
    except Exception as error:  # noqa: BLE001 - any exception means that Airflow's configuration is wrong
        raise _unreadable(error) from None
    from ecr_secrets_backend import EcrSecretsBackend

    build = configuration.get_custom_secret_backend
    server = configuration.conf.get("secrets", "backend", fallback="")
    # Before Airflow 3 there is one backend for all processes.
    knows_workers = "worker_mode" in signature(build).parameters
    workers = configuration.conf.get("workers", "secrets_backend", fallback="") if knows_workers else ""
    if section == "workers" and not workers:
        raise CommandError("[workers] secrets_backend is not set", "Leave --section off to read [secrets].")
    reads_workers = bool(workers) and section != "secrets"
    source = _WORKER_KWARGS if reads_workers else _SERVER_KWARGS
    try:
        backend = build(worker_mode=True) if reads_workers else build()
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error.path}", error.problem, error.fix) from None
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(error) from None
    if isinstance(backend, EcrSecretsBackend):
        return Configuration(backend.settings, source, from_airflow=True)
    file = f"configuration file: {configuration.AIRFLOW_CONFIG}"
    on_servers = f"[secrets] backend is {server}" if server else "no secrets backend is set in [secrets]"
    on_workers = f"[workers] secrets_backend is {workers}"
    found, fix = on_workers if reads_workers else on_servers, _FIX
    if reads_workers and server == BACKEND:
        found = f"{on_workers}, so only servers have {BACKEND}"
        fix = "Set it there as well. Or, if tasks ask the API server, check its configuration by --section secrets."
    elif workers == BACKEND and not reads_workers:
        found = f"{on_servers}, and {on_workers}, so only tasks have it"
        fix = "Leave --section off to read [workers]. If servers are to have it, set [secrets] backend as well."
    raise CommandError(f"In the Airflow of this process, {found} ({file})", fix)


def _allow_import_in_task_child() -> None:
    """Let a process that a task has started, as a BashOperator does, import Airflow."""
    if "airflow" not in sys.modules:
        for name in _DATABASE_VARIABLES:
            if os.environ.get(name) == _FORBIDDEN_DATABASE:
                os.environ[name] = _EMPTY_DATABASE


def _unreadable(error: Exception) -> CommandError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return CommandError(
        f"Airflow's configuration cannot be read: {lines[0].rstrip('.')}",
        "Correct it, or name a file by --backend-kwargs.",
    )

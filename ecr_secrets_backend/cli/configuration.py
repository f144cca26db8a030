"""Which configuration a command works by: the one that Airflow would use in this process, or a file."""

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
    MintError,
)
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
_REMEDY: Final = (
    f"Set [secrets] backend = {BACKEND} and backend_kwargs for this process, run the command with the environment of"
    " the process that is to have it, or name a file by --backend-kwargs."
)

CONN_ID: Final = "CONN_ID"
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

#: What Airflow 3 leaves to its tasks, and to all that they start, in place of its database's URL. SQLAlchemy cannot
#: read it, so that no other process can import Airflow there. Source: ``block_orm_access`` of its supervisor; 3.3.2
#: needs it still.
_FORBIDDEN_DATABASE: Final = "airflow-db-not-allowed:///"
_DATABASE_VARIABLES: Final = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
_EMPTY_DATABASE: Final = "sqlite://"  # in memory


@dataclass(frozen=True)
class Configuration:
    """The settings that a command works by.

    :param source: where they were read, for messages
    :param from_airflow: whether Airflow, in this process, has the backend
    """

    settings: Settings
    source: str
    from_airflow: bool

    @cached_property
    def store(self) -> HostStore | None:
        """The host's cache, if there is to be one."""
        return HostStore(self.settings.cache_dir) if self.settings.cache == "host" else None

    @cached_property
    def logins(self) -> Logins:
        """Where logins come from: the same cache, and the same way to AWS, as the backend's."""
        return Logins(TokenCache(self.store, self.settings.refresh_before), _aws_connection)

    def login(self, mapped: MappedConnection) -> Login:
        """Get a connection's login.

        :raises ConnectionUnavailableError: there is none
        """
        try:
            return self.logins.get(mapped)
        except MintError as error:
            raise ConnectionUnavailableError(mapped.conn_id, error.failure) from None

    def key(self, mapped: MappedConnection) -> str | None:
        """Name the cache's entry for a connection; None where it cannot be told whose token it would be."""
        try:
            return self.logins.resolve(mapped)[0].key
        except MintError:
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
        """Find connections; all of them where none is named."""
        return [self.connection(conn_id) for conn_id in conn_ids or self.settings.connections]


def read(options: argparse.Namespace) -> Configuration:
    """Read the configuration that the command line asks for.

    :raises CommandError: there is none
    :raises ConfigurationError: it cannot be right
    """
    if options.backend_kwargs is None:
        return _from_airflow(options.section)
    if options.section is not None:
        raise CommandError("Both --section and --backend-kwargs were given", "Leave one of them off.")
    return _of_file(options.backend_kwargs)


def _aws_connection(aws_conn_id: str) -> AwsConnection:
    """Look up an AWS connection as ``airflow connections get`` does."""
    _allow_import_in_task_child()
    from airflow.models.connection import Connection

    with quiet():
        connection: AwsConnection = Connection.get_connection_from_secrets(aws_conn_id)
    return connection


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
        kwargs = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(
            f"{source} cannot be read: {error.strerror}", "Name a file that this user may read."
        ) from None
    except (ValueError, RecursionError) as error:
        remedy = "Write what stands in backend_kwargs, an object."
        raise CommandError(f"{source} is not JSON: {error}", remedy) from None
    if not isinstance(kwargs, dict):
        raise CommandError(f"{source} holds no object", 'Write one such as {"connections": {…}}.')
    return Configuration(Settings.parse(kwargs), source, from_airflow=False)


def _from_airflow(section: str | None) -> Configuration:
    """Have Airflow read its configuration and build the backend, as it would for a task."""
    _allow_import_in_task_child()
    try:
        from airflow import configuration
    except ConfigurationError as error:  # Airflow builds the backend of [secrets] while it is imported
        raise ConfigurationError(f"{_SERVER_KWARGS}: {error.path}", error.problem, error.remedy) from None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with Airflow's configuration
        raise _unreadable(error) from None
    from ecr_secrets_backend import EcrSecretsBackend

    build = configuration.get_custom_secret_backend
    server = configuration.conf.get("secrets", "backend", fallback="")
    # Before Airflow 3 there is one backend for all processes.
    knows_workers = "worker_mode" in signature(build).parameters
    workers = configuration.conf.get("workers", "secrets_backend", fallback="") if knows_workers else ""
    if section == "workers" and not workers:
        raise CommandError("[workers] secrets_backend is not set", "Leave --section off to read [secrets].")
    is_worker_s = bool(workers) and section != "secrets"
    source = _WORKER_KWARGS if is_worker_s else _SERVER_KWARGS
    try:
        backend = build(worker_mode=True) if is_worker_s else build()
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error.path}", error.problem, error.remedy) from None
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(error) from None
    if isinstance(backend, EcrSecretsBackend):
        return Configuration(backend.settings, source, from_airflow=True)
    file = f"configuration file: {configuration.AIRFLOW_CONFIG}"
    if not is_worker_s:
        told = f"[secrets] backend is {server}" if server else "no secrets backend is set"
        raise CommandError(f"In the Airflow of this process {told} ({file})", _REMEDY)
    told = f"In the Airflow of this process [workers] secrets_backend is {workers} ({file})"
    if server == BACKEND:
        told = f"{told}, so only servers have {BACKEND}"
        remedy = "Set it there as well; or, where tasks ask the API server, check its way by --section secrets."
        raise CommandError(told, remedy)
    raise CommandError(told, _REMEDY)


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

"""Read the backend's settings for a command, from Airflow's configuration in this process or from a file."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.cli.command import CommandError, argument, suppress_library_logs
from ecr_secrets_backend.errors import (
    ConfigurationError,
    ConnectionUnavailableError,
    EcrSecretsBackendError,
    TokenError,
)
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.logins import Login
    from ecr_secrets_backend.settings import MappedConnection

BACKEND: Final = "ecr_secrets_backend.EcrSecretsBackend"

#: Airflow's options with the backend's class, by section. The options with its kwargs end in ``_kwargs``.
_OPTIONS: Final = {"secrets": "[secrets] backend", "workers": "[workers] secrets_backend"}

CONN_ID: Final = "CONN_ID"
CONN_IDS: Final = argument("conn_ids", metavar=CONN_ID, nargs="*", help="mapped connections (default: all)")
ARGUMENTS: Final = (
    argument(
        "--section",
        choices=("workers", "secrets"),
        help="section of Airflow's configuration to read\n(default: workers if it sets secrets_backend, else secrets)",
    ),
    argument(
        "--backend-kwargs",
        metavar="FILE",
        help="JSON file with the backend's kwargs (-: standard input),\nto read instead of Airflow's configuration",
    ),
)

#: Airflow 3 sets this as the URL of its database for tasks and the processes that they start. SQLAlchemy cannot parse
#: it, so those processes cannot import Airflow. Source: ``block_orm_access`` of the supervisor, also in 3.3.2.
_FORBIDDEN_DATABASE: Final = "airflow-db-not-allowed:///"
_DATABASE_VARIABLES: Final = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
_EMPTY_DATABASE: Final = "sqlite://"  # in memory


@dataclass(frozen=True)
class Configuration:
    """The settings that a command uses.

    :param source: where they were read, for messages
    :param from_airflow: whether Airflow uses them in this process
    """

    settings: Settings
    source: str
    from_airflow: bool

    @cached_property
    def logins(self) -> Logins:
        """Return the logins of all connections, from the cache that the backend uses."""
        return Logins(self.settings, self._look_up_aws_connection)

    def login(self, mapped: MappedConnection) -> Login:
        """Return a connection's login.

        :raises ConnectionUnavailableError: the connection has no valid token
        """
        try:
            return self.logins.get(mapped)
        except TokenError as error:
            raise ConnectionUnavailableError(mapped.conn_id, error.failure) from None

    def key(self, mapped: MappedConnection) -> str | None:
        """Return the key of a connection's entry in the cache; None if its AWS connection cannot be read."""
        try:
            return self.logins.resolve(mapped)[0].key
        except TokenError:
            return None

    def connection(self, conn_id: str) -> MappedConnection:
        """Return a mapped connection.

        :raises CommandError: the backend does not map it
        """
        mapped = self.settings.connections.get(conn_id)
        if mapped is None:
            fix = f"Name a mapped connection: {', '.join(sorted(self.settings.connections))}."
            raise CommandError(f"Connection {conn_id!r} is not mapped in {self.source}", fix)
        return mapped

    def connections(self, conn_ids: list[str]) -> list[MappedConnection]:
        """Return mapped connections: all of them if no ID is passed."""
        return [self.connection(conn_id) for conn_id in conn_ids or self.settings.connections]

    def _look_up_aws_connection(self, aws_conn_id: str) -> AwsConnection:
        """Look up an AWS connection as the backend does: in its fallback backends first."""
        _allow_import_in_task_child()
        from airflow.models.connection import Connection

        fallback = FallbackChain(self.settings.fallback_backends)
        fallback.set_connection_class(Connection)
        connection: AwsConnection | None = fallback.look_up("get_connection", conn_id=aws_conn_id)
        if connection is None:
            with suppress_library_logs():
                connection = Connection.get_connection_from_secrets(aws_conn_id)
        return connection


def read(options: argparse.Namespace) -> Configuration:
    """Read the configuration that the command line selects.

    :raises CommandError: there is no configuration
    :raises ConfigurationError: the settings are not valid
    """
    if options.backend_kwargs is None:
        return from_airflow(options.section)
    if options.section is not None:
        raise CommandError("--section and --backend-kwargs exclude each other", "Remove one of them.")
    return _read_file(options.backend_kwargs)


def complete_conn_id(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the mapped connections that a shell may complete a prefix to."""
    try:
        connections = read(parsed_args).settings.connections
    except EcrSecretsBackendError:
        return []
    return [conn_id for conn_id in connections if conn_id.startswith(prefix)]


def _read_file(name: str) -> Configuration:
    source = "standard input" if name == "-" else name
    try:
        kwargs = json.loads(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except OSError as error:
        fix = "Name a file that this user can read."
        raise CommandError(f"{source} cannot be read: {error.strerror}", fix) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{source} is not JSON: {error}", "Write the value of backend_kwargs.") from None
    if not isinstance(kwargs, dict):
        raise CommandError(f"{source} is not a JSON object", 'Write an object, such as {"connections": {…}}.')
    return Configuration(Settings.parse(kwargs), source, from_airflow=False)


def from_airflow(section: str | None) -> Configuration:
    """Let Airflow read its configuration and build the backend, as for a task.

    :param section: ``secrets`` or ``workers``; None: the section that a worker reads
    :raises CommandError: the section does not name the backend
    :raises ConfigurationError: the settings are not valid
    """
    _allow_import_in_task_child()
    with _explain_errors("secrets"):  # Airflow builds the backend of [secrets] while it is imported
        from airflow import configuration
    from ecr_secrets_backend import EcrSecretsBackend

    build, conf = configuration.get_custom_secret_backend, configuration.conf
    backends = {"secrets": conf.get("secrets", "backend", fallback="")}
    if "worker_mode" in signature(build).parameters:  # from Airflow 3 on
        backends["workers"] = conf.get("workers", "secrets_backend", fallback="")
    if section == "workers" and not backends.get("workers"):
        raise CommandError(f"{_OPTIONS['workers']} is not set", "Remove --section to read [secrets].")
    section = section or ("workers" if backends.get("workers") else "secrets")
    option, other = _OPTIONS[section], "secrets" if section == "workers" else "workers"
    with _explain_errors(section):
        backend = build(worker_mode=True) if section == "workers" else build()
    if isinstance(backend, EcrSecretsBackend):
        return Configuration(backend.settings, f"{option}_kwargs", from_airflow=True)
    value = f"{option} is {backends[section] or 'not set'}"
    problem = f"Airflow in this process does not use this backend: {value} (in {configuration.AIRFLOW_CONFIG})"
    if backends.get(other) == BACKEND:
        problem = f"{problem}, but {_OPTIONS[other]} is {BACKEND}"
        raise CommandError(problem, f"Use --section {other} to read that section, or set {option} to the same value.")
    fix = (
        f"Set [secrets] backend = {BACKEND} and backend_kwargs, run the command with the environment of the process"
        " that has these settings, or use --backend-kwargs FILE."
    )
    raise CommandError(problem, fix)


def _allow_import_in_task_child() -> None:
    """Allow a process that a task has started, such as that of a BashOperator, to import Airflow."""
    if "airflow" not in sys.modules:
        for name in _DATABASE_VARIABLES:
            if os.environ.get(name) == _FORBIDDEN_DATABASE:
                os.environ[name] = _EMPTY_DATABASE


@contextmanager
def _explain_errors(section: str) -> Iterator[None]:
    """Convert Airflow's exceptions for a wrong configuration into exceptions that name the option."""
    try:
        yield
    except ConfigurationError as error:
        path = f"{_OPTIONS[section]}_kwargs: {error.path}"
        raise ConfigurationError(path, error.problem, error.fix) from None
    except Exception as error:  # noqa: BLE001 - any exception means that Airflow's configuration is wrong
        line, *_ = str(error).strip().splitlines() or [type(error).__name__]
        problem = f"Airflow's configuration cannot be read: {line.rstrip('.')}"
        raise CommandError(problem, "Correct it, or use --backend-kwargs FILE.") from None

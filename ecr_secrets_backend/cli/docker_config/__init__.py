"""``docker-config``: keep Docker's own configuration logged in, for tools outside Airflow."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import FAILED, SUCCESS, Command, CommandError, argument
from ecr_secrets_backend.cli.configuration import Configuration
from ecr_secrets_backend.cli.docker_config import file
from ecr_secrets_backend.cli.output import Output, iso_time
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import ConnectionUnavailableError
from ecr_secrets_backend.settings import MappedConnection
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: The longest pause between two writes. Another program may change the file in between.
LONGEST_SLEEP_SECONDS: Final = 60.0
#: The pause between two writes while a connection has no token. The cache's back-off limits the calls to AWS.
RETRY_SECONDS: Final = 5.0
#: Enough writes to renew or remove a short-lived token before it expires: its last tenth is not served.
WRITES_PER_LIFETIME: Final = 50
#: How long a signal waits for the end of a write, which takes milliseconds unless the disk hangs.
WRITE_TIMEOUT_SECONDS: Final = 0.5


@dataclass
class LoginWriter:
    """Writes the logins of some connections into one folder's ``config.json``.

    :param in_place: see :func:`~ecr_secrets_backend.cli.docker_config.file.change_logins`
    :param failures: the reasons for missing tokens, by connection
    """

    configured: Configuration
    connections: list[MappedConnection]
    folder: Path
    in_place: bool
    failures: dict[str, str] = field(default_factory=dict)
    _tokens: dict[str, EcrToken] | None = None  # None before the first write

    def write(self) -> None:
        """Update all logins, and remove the login of a connection that has no valid token.

        :raises CommandError: the file cannot be changed
        """
        is_first = self._tokens is None
        earlier = self._tokens or dict(self._cached_tokens())
        tokens, failures = fetch_tokens(self.configured, self.connections)
        for conn_id, failure in failures.items():
            if self.failures.get(conn_id) != failure:
                logger.error("%s", failure)
        self.failures = failures
        if is_first:
            self._warn(tokens)
        logins = {host: _auth(token) for host, token in tokens.items()}
        expired = {host: _auth(token) for host, token in earlier.items() if host not in tokens}
        changed = file.change_logins(self.folder, logins, expired, in_place=self.in_place)
        self._tokens = tokens
        for host, token in tokens.items():
            if is_first or host in changed:
                done = "Logged in" if host in changed else "Already logged in"
                logger.info("%s to %s until %s, in %s", done, host, iso_time(token.expires_at), self.folder)
        for host in changed & expired.keys():
            logger.error("Removed the login for %s: its token expires, and AWS returns no new token", host)

    def _cached_tokens(self) -> Iterator[tuple[str, EcrToken]]:
        """Yield the tokens in the host's cache, by registry: an earlier run may have written them to the file."""
        for mapped in self.connections:
            with suppress(OSError):
                store, name = self.configured.logins.store, f"{self.configured.key(mapped)}.json"
                entry = Entry.from_json((store and store.read(name)) or b"")
                if entry and entry.token and (host := mapped.host or entry.token.registry):
                    yield host, entry.token

    def _warn(self, hosts: Iterable[str]) -> None:
        """Log a warning for programs that do not use the logins in the file."""
        if not self.in_place and file.is_shared(self.folder):
            problem = f"{self.folder}/{file.FILE_NAME} has another link or mount, where the old login stays"
            logger.warning("%s. Mount the folder instead of the file, or use --in-place.", problem)
        config = file.DockerConfig.load(self.folder)
        for host in hosts:
            if helper := config.helper(host):
                clients = "docker-py uses" if config.has_empty_helper(host) else "Docker's clients use"
                problem = f"{helper[0]} in {config.path} names the credential helper {helper[1]!r}"
                logger.warning("%s, which %s instead of this login. Remove the key.", problem, clients)

    def seconds_to_sleep(self) -> float:
        """Return the time until the next write."""
        lifetimes = [token.lifetime / WRITES_PER_LIFETIME for token in (self._tokens or {}).values()]
        return min([LONGEST_SLEEP_SECONDS, *lifetimes, *([RETRY_SECONDS] if self.failures else [])])


def fetch_tokens(
    configured: Configuration, connections: list[MappedConnection]
) -> tuple[dict[str, EcrToken], dict[str, str]]:
    """Return the tokens by registry, and the reasons for missing tokens by connection.

    :raises CommandError: two AWS identities are mapped to one registry
    """
    tokens: dict[str, EcrToken] = {}
    failures: dict[str, str] = {}
    for mapped in connections:
        try:
            login = configured.login(mapped)
        except ConnectionUnavailableError as error:
            failures[mapped.conn_id] = str(error)
            continue
        if tokens.setdefault(login.host, login.token) != login.token:
            problem = f"Two AWS identities are mapped to {login.host}, but Docker has one login for a registry"
            raise CommandError(problem, "Name the connections to use.")
    return tokens, failures


def _auth(token: EcrToken) -> str:
    return file.encode_login(token.username, token.password)


def run(options: argparse.Namespace, output: Output) -> int:
    """Write the logins once, or keep running and renew them."""
    if options.stdout and (options.config or options.in_place or options.watch):
        raise CommandError("--stdout writes no file", "Use it without --config, --in-place and --watch.")
    if options.config == "":
        raise CommandError("--config is empty", "Name the folder of config.json.")
    if options.watch:
        _end_on_signals()
    configured = configuration.read(options)
    connections = configured.connections(options.conn_ids)
    logger.setLevel(logging.INFO)
    if options.stdout:
        tokens, failures = fetch_tokens(configured, connections)
        for failure in failures.values():
            logger.error("%s", failure)
        if not failures:  # a Kubernetes secret with some of the logins would replace one with all
            output.json({"auths": {host: {"auth": _auth(token)} for host, token in tokens.items()}})
        return FAILED if failures else SUCCESS
    folder = file.default_folder() if options.config is None else Path(options.config)
    writer = LoginWriter(configured, connections, folder, options.in_place)
    writer.write()  # an error of the first write ends the command, even with --watch
    if options.watch:
        _watch(writer)
    return FAILED if writer.failures else SUCCESS


def _watch(writer: LoginWriter) -> None:
    while True:
        if not writer.failures:
            _notify("READY=1")  # systemd uses the first one
        time.sleep(writer.seconds_to_sleep())
        try:
            writer.write()
        except CommandError as error:
            logger.error("%s", error)  # noqa: TRY400 - one line, and no traceback


def _end_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process at once, with exit code 0.

    A thread ends it, because Airflow or a library may catch the exception of a handler, and no handler runs while the
    main thread is in C code.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def end() -> None:
        while os.read(reader, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        _notify("STOPPING=1")
        file.WRITING.acquire(timeout=WRITE_TIMEOUT_SECONDS)
        os._exit(SUCCESS)

    threading.Thread(target=end, daemon=True).start()


def _notify(state: str) -> None:
    """Report the state to systemd, if this is a service of ``Type=notify``. Source: ``sd_notify(3)``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


COMMAND: Final = Command(
    name="docker-config",
    help="keep Docker's config.json logged in, for tools outside Airflow",
    description="Write the logins of mapped registries into Docker's config.json, and keep everything else in it.\n"
    "Docker, compose, Watchtower, BashOperator and other readers of that file then pull without a login of their own.",
    epilog="""examples:
  ecr-secrets-backend docker-config                      # once: from cron, or before a build
  ecr-secrets-backend docker-config --watch              # as a service: renews each login before it expires
  ecr-secrets-backend docker-config docker_eu --config /shared/docker --backend-kwargs kwargs.json --watch
  (umask 077; ecr-secrets-backend docker-config --stdout > auth.json.new && mv auth.json.new auth.json) # for Podman""",
    arguments=(
        configuration.CONN_IDS,
        argument("--watch", action="store_true", help="keep running, and renew each login before it expires"),
        argument("--config", metavar="DIR", help="the folder of config.json (default: DOCKER_CONFIG, else ~/.docker)"),
        argument(
            "--in-place",
            action="store_true",
            help="write into the file instead of replacing it, if the file is mounted without its folder",
        ),
        argument("--stdout", action="store_true", help="print a config.json with only these logins, and write no file"),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

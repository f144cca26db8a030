"""``docker-config``: keep Docker's own configuration logged in, for tools beside Airflow."""

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
from ecr_secrets_backend.entry import BACK_OFF_PART, BACK_OFF_SECONDS, Entry
from ecr_secrets_backend.errors import ConnectionUnavailableError
from ecr_secrets_backend.settings import MappedConnection
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: It looks at the file this often even where no token is due: another program may have changed it, or the host slept.
LONGEST_SLEEP_SECONDS: Final = 60.0
#: How long a signal waits for the end of a write, which takes milliseconds unless the disk hangs.
WRITE_TIMEOUT_SECONDS: Final = 0.5


@dataclass
class LoginWriter:
    """Writes the logins of some connections into one folder's ``config.json``.

    :param in_place: see :func:`~ecr_secrets_backend.cli.docker_config.file.change_logins`
    """

    configured: Configuration
    connections: list[MappedConnection]
    folder: Path
    in_place: bool
    failures: dict[str, str] = field(default_factory=dict)
    _tokens: dict[str, EcrToken] | None = None  # None: nothing is written yet

    def write(self) -> None:
        """Bring all logins up to date; a connection without a valid token loses its entry.

        :raises CommandError: the file cannot be changed
        """
        is_first = self._tokens is None
        written = dict(self._earlier_tokens()) if self._tokens is None else self._tokens
        tokens, failures = fetch(self.configured, self.connections)
        for conn_id, failure in failures.items():
            if self.failures.get(conn_id) != failure:
                logger.error("%s", failure)
        self.failures = failures
        if is_first:
            self._warn(tokens)
        logins = {host: _auth(token) for host, token in tokens.items()}
        expired = {host: _auth(token) for host, token in written.items() if host not in tokens}
        changed = file.change_logins(self.folder, logins, expired, in_place=self.in_place)
        self._tokens = tokens
        for host, token in tokens.items():
            if is_first or host in changed:
                done = "Logged in" if host in changed else "Already logged in"
                logger.info("%s to %s until %s, in %s", done, host, iso_time(token.expires_at), self.folder)
        for host in changed & expired.keys():
            logger.error("Removed the login for %s: its token is no longer valid, and AWS returns no other", host)

    def _earlier_tokens(self) -> Iterator[tuple[str, EcrToken]]:
        """Return what is in the cache, by host: an earlier run may have written it."""
        for mapped in self.connections:
            with suppress(OSError):
                text = self.configured.store and self.configured.store.read(f"{self.configured.key(mapped)}.json")
                entry = Entry.from_json(text) if text else None
                if entry and entry.token and (host := mapped.host or entry.token.registry):
                    yield host, entry.token

    def _warn(self, hosts: Iterable[str]) -> None:
        """Report readers of the file that do not see it replaced, and hosts for which Docker's clients ask a helper."""
        if not self.in_place and file.is_shared(self.folder):
            message = "%s/config.json has another link or mount, where the old login stays: %s"
            logger.warning(message, self.folder, "mount its folder, or use --in-place")
        config = file.DockerConfig.load(self.folder)
        for host in hosts:
            if helper := config.helper(host):
                asks = "docker-py asks first" if config.is_exempt(host) else "Docker's clients ask first"
                message = f"%s in %s names the credential helper %r, which {asks}: remove it"
                logger.warning(message, helper[0], config.path, helper[1])

    def seconds_until_due(self) -> float:
        """Return for how long there is nothing to do."""
        now = time.time()
        waits = [LONGEST_SLEEP_SECONDS, *([BACK_OFF_SECONDS] if self.failures else [])]
        for token in (self._tokens or {}).values():
            renewal, end = (
                token.renewal_at(self.configured.settings.refresh_before),
                token.expires_at - token.serve_margin,
            )
            # After the moment of renewal AWS fails, and the cache knows how often to call it.
            waits.append(renewal - now if renewal > now else token.lifetime * BACK_OFF_PART)
            waits.append(max(0.0, end - now))  # when it is removed
        return min(waits)


def fetch(configured: Configuration, connections: list[MappedConnection]) -> tuple[dict[str, EcrToken], dict[str, str]]:
    """Return the tokens by host, and why there are none by connection.

    :raises CommandError: two identities are mapped to one host
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
            problem = f"Two AWS identities are mapped to {login.host}, for which Docker has one login"
            raise CommandError(problem, "Name the connections to use.")
    return tokens, failures


def _auth(token: EcrToken) -> str:
    return file.encoded(token.username, token.password)


def run(options: argparse.Namespace, output: Output) -> int:
    """Write the logins once, or stay and renew them."""
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
        tokens, failures = fetch(configured, connections)
        for failure in failures.values():
            logger.error("%s", failure)
        if not failures:  # where some logins are applied, as to a secret, the others are lost
            output.json({"auths": {host: {"auth": _auth(token)} for host, token in tokens.items()}})
        return FAILED if failures else SUCCESS
    folder = file.default_folder() if options.config is None else Path(options.config)
    writer = LoginWriter(configured, connections, folder, options.in_place)
    writer.write()  # also with --watch, a file that cannot be written at first is a wrong configuration
    if options.watch:
        _watch(writer)
    return FAILED if writer.failures else SUCCESS


def _watch(writer: LoginWriter) -> None:
    is_ready = False
    while True:
        if not is_ready and not writer.failures:
            _notify("READY=1")
            is_ready = True
        time.sleep(writer.seconds_until_due())
        try:
            writer.write()
        except CommandError as error:
            logger.error("%s", error)  # noqa: TRY400 - one line, and no traceback


def _end_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process at once, with exit code 0.

    A thread does it: what a handler raises in the main thread, Airflow or a library may catch, and while that is in C
    code, no handler runs.
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
    """Report to systemd, if it wants that. Source: ``sd_notify(3)``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


COMMAND: Final = Command(
    name="docker-config",
    help="keep Docker's config.json logged in, for tools beside Airflow",
    description="Write the logins of mapped registries into Docker's config.json, and leave all else in it as it was.\n"
    "Docker, compose, Watchtower, BashOperator and all others that read that file pull without a login of their own.",
    epilog="""examples:
  ecr-secrets-backend docker-config                      # once: from cron, or before a build
  ecr-secrets-backend docker-config --watch              # as a service: renews each login in its own time
  ecr-secrets-backend docker-config docker_eu --config /shared/docker --backend-kwargs kwargs.json --watch
  (umask 077; ecr-secrets-backend docker-config --stdout > auth.json.new && mv auth.json.new auth.json) # for Podman""",
    arguments=(
        configuration.CONN_IDS,
        argument("--watch", action="store_true", help="stay, and renew each login in its own time"),
        argument("--config", metavar="DIR", help="the folder of config.json (default: DOCKER_CONFIG, else ~/.docker)"),
        argument(
            "--in-place",
            action="store_true",
            help="write into the file instead of replacing it: for a file that is mounted alone",
        ),
        argument("--stdout", action="store_true", help="print a config.json that has only these logins; write no file"),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

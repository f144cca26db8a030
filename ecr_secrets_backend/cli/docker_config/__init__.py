"""``docker-config``: keep Docker's own configuration logged in, for tools beside Airflow."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import FAILED, GOOD, Command, CommandError, argument
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins, default_folder, encoded
from ecr_secrets_backend.cli.output import iso_time
from ecr_secrets_backend.entry import BACK_OFF_PART, BACK_OFF_SECONDS
from ecr_secrets_backend.errors import ConnectionUnavailableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ecr_secrets_backend.cli.configuration import Configuration
    from ecr_secrets_backend.cli.output import Output
    from ecr_secrets_backend.logins import Login
    from ecr_secrets_backend.settings import MappedConnection

logger = logging.getLogger(__name__)

#: While it watches, it looks at the file this often even where no token is due: somebody may have logged out, or the
#: host may have slept.
LONGEST_SLEEP_SECONDS: Final = 60.0


class Keeper:
    """Keeps the logins of some connections in one folder's ``config.json``.

    :param configured: where logins come from
    :param connections: those to keep
    :param folder: of Docker's configuration
    """

    def __init__(self, configured: Configuration, connections: list[MappedConnection], folder: Path) -> None:
        self._configured = configured
        self._connections = connections
        self._folder = folder
        self._kept: dict[str, Login] = {}
        self._failures: dict[str, str] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every connection's login is there."""
        return not self._failures

    def keep(self) -> None:
        """Bring all logins up to date; a connection whose token is dead loses its entry.

        :raises CommandError: the file cannot be changed
        """
        wanted: dict[str, Login] = {}
        for mapped in self._connections:
            try:
                login = self._configured.login(mapped)
            except ConnectionUnavailableError as error:
                if self._failures.get(mapped.conn_id) != str(error):
                    logger.error("%s", error)  # noqa: TRY400 - one line, and no traceback
                self._failures[mapped.conn_id] = str(error)
                continue
            self._failures.pop(mapped.conn_id, None)
            other = wanted.setdefault(login.host, login)
            if other.token != login.token:
                remedy = "Name the connections to use."
                raise CommandError(f"Two AWS identities are mapped to {login.host}, which Docker knows once", remedy)
        given_up = {host: _auth(login) for host, login in self._kept.items() if host not in wanted}
        changed = change_logins(self._folder, {host: _auth(login) for host, login in wanted.items()}, given_up)
        for host, login in wanted.items():
            until = iso_time(login.token.expires_at)
            if host in changed:
                logger.info("Logged in to %s until %s, in %s", host, until, self._folder)
            elif host not in self._kept:
                logger.info("Already logged in to %s until %s, in %s", host, until, self._folder)
        for host in changed & given_up.keys():
            logger.error("Removed the login for %s: its token is dead, and AWS gives no other", host)
        self._kept = wanted

    def warn_of_helpers(self) -> None:
        """Say where Docker will not look at what was written."""
        config = DockerConfig.load(self._folder)
        for host in self._kept:
            if helper := config.helper(host):
                key, name = helper
                logger.warning(
                    "%s in %s names the helper %r, which Docker asks instead of looking at this login: remove it",
                    key,
                    config.path,
                    name,
                )

    def seconds_until_due(self) -> float:
        """Tell how long there is nothing to do."""
        now = time.time()
        waits = [LONGEST_SLEEP_SECONDS]
        for login in self._kept.values():
            wait = login.token.renewal_at(self._configured.settings.refresh_before) - now
            waits.append(
                wait if wait > 0 else login.token.lifetime * BACK_OFF_PART
            )  # AWS fails: the cache says how often
        if self._failures:
            waits.append(BACK_OFF_SECONDS)
        return min(waits)


def _auth(login: Login) -> str:
    return encoded(login.token.username, login.token.password)


class _EndedError(Exception):
    """A signal has asked for the end."""


def run(options: argparse.Namespace, _output: Output) -> int:
    """Write the logins once, or stay and keep them alive."""
    configured = configuration.read(options)
    folder = default_folder() if options.config is None else Path(options.config)
    keeper = Keeper(configured, configured.connections(options.conn_ids), folder)
    logger.setLevel(logging.INFO)
    if options.watch:
        return _watch(keeper)
    keeper.keep()
    keeper.warn_of_helpers()
    return GOOD if keeper.is_complete else FAILED


def _watch(keeper: Keeper) -> int:
    try:
        with _ended_by_signals():
            keeper.keep()  # what cannot be written at first is a fault of the configuration, and ends it
            keeper.warn_of_helpers()
            is_ready = False
            while True:
                if keeper.is_complete and not is_ready:
                    _notify("READY=1")
                    is_ready = True
                time.sleep(keeper.seconds_until_due())
                try:
                    keeper.keep()
                except CommandError as error:
                    logger.error("%s", error)  # noqa: TRY400 - one line, and no traceback
    except _EndedError:
        _notify("STOPPING=1")
    return GOOD


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    def end(_number: int, _frame: object) -> NoReturn:
        raise _EndedError

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _notify(state: str) -> None:
    """Tell systemd, if it has asked. Source: ``sd_notify(3)``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


COMMAND: Final = Command(
    name="docker-config",
    help="keep Docker's config.json logged in, for tools beside Airflow",
    description="Write the logins of mapped registries into Docker's config.json, and leave all else in it as it was.\n"
    "Docker, compose, Watchtower, BashOperator and whatever else reads that file pull without a login of their own.",
    epilog="""examples:
  ecr-secrets-backend docker-config                      # once: from cron, or before a build
  ecr-secrets-backend docker-config --watch              # as a service: renews each login in its own time
  ecr-secrets-backend docker-config docker_eu --config /shared/docker --backend-kwargs kwargs.json --watch""",
    arguments=(
        argument("conn_ids", metavar=configuration.CONN_ID, nargs="*", help="mapped connections (default: all)"),
        argument("--watch", action="store_true", help="stay, and renew each login in its own time"),
        argument(
            "--config", metavar="DIR", help="the folder of config.json (default: DOCKER_CONFIG, else .docker at home)"
        ),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

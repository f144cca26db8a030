"""From a mapped connection to a login: who asks AWS for it in this process, and with which credentials."""

from __future__ import annotations

import logging
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, NamedTuple

from ecr_secrets_backend import aws
from ecr_secrets_backend.errors import MintError, MintFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.cache import Source, TokenCache
    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
    from ecr_secrets_backend.settings import MappedConnection
    from ecr_secrets_backend.token import EcrToken

    Mint = Callable[[], EcrToken]

logger = logging.getLogger(__name__)

#: So soon a process that lives on notices that its credentials were replaced.
IDENTITY_SECONDS: Final = 10.0

_SOURCES: Final = {
    "process_hit": "a token from the process's memory",
    "host_hit": "a token from the host's cache",
    "stale": "the old token, whose renewal is due",
}


class Login(NamedTuple):
    """A way into a registry: its host, the token that opens it, and where that comes from."""

    host: str
    token: EcrToken
    source: Source


class Logins:
    """Logins for mapped connections, for the backend and for the commands.

    :param cache: where tokens come from
    :param look_up: gives the Airflow connection of an ID, and raises whatever Airflow raises
    """

    def __init__(self, cache: TokenCache, look_up: Callable[[str], AwsConnection]) -> None:
        self._cache = cache
        self._look_up = look_up
        self._askers: dict[str, _Asker] = {}

    def get(self, mapped: MappedConnection, watch: Callable[[Mint], Mint] | None = None) -> Login:
        """Get a connection's login.

        :param watch: is given what asks AWS, and gives what does so as well, watched; it is to be quick
        :return: the registry's host, and a token that is alive
        :raises MintError: there is none
        """
        asker = self._asker(mapped)
        mint = asker.mint if watch is None else watch(asker.mint)
        token, source = self._cache.get(asker.identity, mint)
        if source != "mint" and logger.isEnabledFor(logging.DEBUG):
            left = token.expires_at - time.time()
            logger.debug("Connection %r: %s, valid for %.0f s more", mapped.conn_id, _SOURCES[source], left)
        host = mapped.host or token.registry
        if host is None:
            remedy = "Set the connection's registry in backend_kwargs."
            raise MintError(_failure(asker.identity, "UnusableAnswer", "the answer names no registry", remedy))
        return Login(host, token, source)

    def identity(self, mapped: MappedConnection) -> AwsIdentity:
        """Tell who asks AWS for a connection's token in this process.

        :raises MintError: the Airflow connection that holds the credentials cannot be had
        """
        return self._asker(mapped).identity

    def caller(self, mapped: MappedConnection) -> aws.Caller:
        """Find the credentials of a connection's identity, and ask STS whose they are.

        :raises MintError: there are none
        """
        connection = self._aws_connection(mapped)
        return aws.caller(mapped.identity.in_environment(os.environ, connection), connection)

    def _asker(self, mapped: MappedConnection) -> _Asker:
        """Tell who asks AWS for a mapped connection; what decides that is looked at every few seconds."""
        asker = self._askers.get(mapped.conn_id)
        if asker is None or time.monotonic() >= asker.until:
            connection = self._aws_connection(mapped)
            identity = mapped.identity.in_environment(os.environ, connection)
            mint = _minter(mapped, identity, connection)
            asker = self._askers[mapped.conn_id] = _Asker(identity, mint, time.monotonic() + IDENTITY_SECONDS)
        return asker

    def _aws_connection(self, mapped: MappedConnection) -> AwsConnection | None:
        """Look up the Airflow connection that holds the credentials, if there is to be one.

        Before any lock is taken: in Airflow's triggerer, an event loop that waits for us may be what answers.
        """
        if mapped.identity.aws_conn_id is None:
            return None
        found = self._looked_up(mapped.identity, mapped.identity.aws_conn_id)
        if isinstance(found, MintFailure):  # raised from here, where no exception of Airflow's hangs on to it
            raise MintError(found)
        return found

    def _looked_up(self, identity: AwsIdentity, aws_conn_id: str) -> AwsConnection | MintFailure:
        try:
            return self._look_up(aws_conn_id)
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises, a lookup fails with our exception
            code = type(error).__name__
        # Nothing is quoted: it may hold the credentials.
        reason = "Airflow does not give that connection to this process"
        remedy = f"Add an Airflow connection {aws_conn_id!r} of type aws, or set aws_conn_id to one that there is."
        return _failure(identity, code, reason, remedy)


class _Asker(NamedTuple):
    """Who asks AWS for a connection's token, how, and until when that is known, by ``time.monotonic()``."""

    identity: AwsIdentity
    mint: Mint
    until: float


def _failure(identity: AwsIdentity, code: str, reason: str, remedy: str) -> MintFailure:
    return MintFailure(str(identity), identity.region or "none", code, reason, remedy)


def _minter(mapped: MappedConnection, identity: AwsIdentity, connection: AwsConnection | None) -> Mint:
    """Give what mints for a connection: a closure, because its repr, unlike the Airflow connection's, shows nothing."""

    def mint() -> EcrToken:
        started_at = time.monotonic()
        token = aws.mint(identity, connection=connection)
        logger.info(
            "Minted an ECR token for connection %r: registry %s, region %s, identity %s, valid until %s, in %.1f s",
            mapped.conn_id,
            mapped.host or token.registry,
            identity.region or "of the AWS configuration",
            identity,
            datetime.fromtimestamp(token.expires_at, timezone.utc).isoformat(timespec="seconds"),
            time.monotonic() - started_at,
        )
        return token

    return mint

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

    from ecr_secrets_backend.cache import TokenCache
    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
    from ecr_secrets_backend.settings import MappedConnection
    from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: So soon a process that lives on notices that its credentials were replaced.
IDENTITY_SECONDS: Final = 10.0


class Login(NamedTuple):
    """A way into a registry: its host, and the token that opens it."""

    host: str
    token: EcrToken


class Logins:
    """Logins for mapped connections, for the backend and for the commands.

    :param cache: where tokens come from
    :param look_up: gives the Airflow connection of an ID, and raises whatever Airflow raises
    """

    def __init__(self, cache: TokenCache, look_up: Callable[[str], AwsConnection]) -> None:
        self._cache = cache
        self._look_up = look_up
        self._askers: dict[str, _Asker] = {}

    def get(self, mapped: MappedConnection) -> Login:
        """Get a connection's login.

        :return: the registry's host, and a token that is alive
        :raises MintError: there is none
        """
        asker = self._asker(mapped)
        token = self._cache.get(asker.identity, asker.mint)
        host = mapped.host or token.registry
        if host is None:
            remedy = "Set the connection's registry in backend_kwargs."
            raise MintError(_failure(asker.identity, "UnusableAnswer", "the answer names no registry", remedy))
        return Login(host, token)

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
    mint: Callable[[], EcrToken]
    until: float


def _failure(identity: AwsIdentity, code: str, reason: str, remedy: str) -> MintFailure:
    return MintFailure(str(identity), identity.region or "none", code, reason, remedy)


def _minter(
    mapped: MappedConnection, identity: AwsIdentity, connection: AwsConnection | None
) -> Callable[[], EcrToken]:
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

"""From a mapped connection to a login, by the same cache and the same way to AWS as the backend's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.errors import ConnectionUnavailableError, MintError, MintFailure
from ecr_secrets_backend.host_store import HostStore

if TYPE_CHECKING:
    from ecr_secrets_backend.identity import AwsIdentity
    from ecr_secrets_backend.settings import MappedConnection, Settings
    from ecr_secrets_backend.token import EcrToken


@dataclass(frozen=True)
class Login:
    """A way into a registry.

    :param host: the registry's host
    :param was_minted: whether AWS was asked for the token just now
    """

    host: str
    token: EcrToken
    was_minted: bool


class Logins:
    """Logins for the connections of one configuration.

    :param settings: the backend's
    """

    def __init__(self, settings: Settings) -> None:
        self.store = HostStore(settings.cache_dir) if settings.cache == "host" else None
        self._cache = TokenCache(self.store, settings.refresh_before)

    def identity(self, mapped: MappedConnection) -> AwsIdentity:
        """Tell who asks AWS for a connection's token, in this process."""
        return mapped.identity.in_environment(os.environ)

    def get(self, mapped: MappedConnection) -> Login:
        """Get a connection's login, from the cache while that holds a live token.

        :raises ConnectionUnavailableError: there is none
        """
        identity = self.identity(mapped)
        minted: list[EcrToken] = []

        def mint() -> EcrToken:
            minted.append(aws.mint(identity))
            return minted[0]

        try:
            token = self._cache.get(identity, mint)
        except MintError as error:
            raise ConnectionUnavailableError(mapped.conn_id, error.failure) from None
        host = mapped.host or token.registry
        if host is None:
            remedy = "Set the connection's registry in backend_kwargs."
            failure = MintFailure(
                str(identity), identity.region or "none", "UnusableAnswer", "the answer names no registry", remedy
            )
            raise ConnectionUnavailableError(mapped.conn_id, failure)
        return Login(host, token, was_minted=token in minted)

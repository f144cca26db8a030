"""What Airflow's own metrics are told of lookups: by StatsD or OpenTelemetry, as Airflow is configured."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecr_secrets_backend.airflow_options import sends_metrics
from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.errors import MintError

if TYPE_CHECKING:
    from ecr_secrets_backend.logins import Login, Logins, Mint
    from ecr_secrets_backend.settings import MappedConnection
    from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: How long a lookup waits for Airflow to send them: it may have to import their client, and ask a name server where to.
#: With what the cache may wait it comes to 30 s.
PATIENCE_SECONDS: Final = 2.0

#: One for each result, and no tag, because plain StatsD has no tags.
LOOKUPS: Final = "ecr_secrets_backend.lookups."
MINT_DURATION: Final = "ecr_secrets_backend.mint_duration"
BACK_OFFS: Final = "ecr_secrets_backend.back_offs"
SECONDS_TO_EXPIRY: Final = "ecr_secrets_backend.seconds_to_expiry"


class Metric(NamedTuple):
    """A metric, as users see it.

    :param type: ``counter``, ``timer`` or ``gauge``
    """

    type: str
    meaning: str


#: All of them, by name; Airflow puts a prefix of its own before it.
METRICS: Final = {
    f"{LOOKUPS}process_hit": Metric("counter", "lookups served from the process's memory"),
    f"{LOOKUPS}host_hit": Metric("counter", "lookups served a token that another process or thread of the host minted"),
    f"{LOOKUPS}mint": Metric("counter", "lookups served a token that they minted"),
    f"{LOOKUPS}stale": Metric("counter", "lookups served the old token, while another renews it or AWS gives none"),
    f"{LOOKUPS}error": Metric("counter", "lookups not served"),
    MINT_DURATION: Metric("timer", "how long a lookup asked AWS for a token, be it in vain"),
    BACK_OFFS: Metric("counter", "times that AWS gave no token, or none in time, and is left alone for a while"),
    SECONDS_TO_EXPIRY: Metric("gauge", "seconds until AWS refuses the token that was served last"),
}


class Metrics:
    """Airflow's metrics, until they fail: what has failed once would fail, and take its time, at each lookup."""

    def __init__(self) -> None:
        self._have_failed = False

    def get(self, logins: Logins, mapped: MappedConnection) -> Login:
        """Get a connection's login, and tell what became of it.

        :return: as :meth:`Logins.get` does
        :raises MintError: there is none; whatever is wrong with the metrics, nothing else
        """
        watched = _WatchedMint()
        try:
            login = logins.get(mapped, watched.watch)
        except MintError:
            self._tell(mapped, "error", watched, None)
            raise
        self._tell(mapped, login.source, watched, login.token)
        return login

    def _tell(self, mapped: MappedConnection, result: str, mint: _WatchedMint, token: EcrToken | None) -> None:
        if self._have_failed:
            return
        try:
            within(PATIENCE_SECONDS, partial(_send, mapped, result, mint, token))
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises, a lookup does not fail for it
            self._have_failed = True
            logger.warning(
                "Airflow's metrics fail, so this process sends none of ECR tokens any more. "
                "Look at the section [metrics] of Airflow's configuration. %s: %s",
                type(error).__name__,
                error,
            )


class _WatchedMint:
    """Whether a lookup asked AWS, and for how long: told after the lookup, when nobody waits for its end any more."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._has_token = False

    def watch(self, mint: Mint) -> Mint:
        """Give what mints just so."""

        def watched() -> EcrToken:
            self._began_at = time.monotonic()
            try:
                token = mint()
                self._has_token = True
            finally:
                self._ended_at = time.monotonic()
            return token

        return watched

    @property
    def seconds(self) -> float | None:
        """How long AWS has been asked; None: it was not."""
        return None if self._began_at is None else (self._ended_at or time.monotonic()) - self._began_at

    @property
    def is_in_vain(self) -> bool:
        """Whether AWS was asked and has given nothing."""
        return self._began_at is not None and not self._has_token


def _send(mapped: MappedConnection, result: str, mint: _WatchedMint, token: EcrToken | None) -> None:
    stats = _stats()
    tags = {"conn_id": mapped.conn_id}
    if mapped.identity.region is not None:
        tags["region"] = mapped.identity.region
    stats.incr(LOOKUPS + result, tags=tags)
    if mint.seconds is not None:
        stats.timing(MINT_DURATION, timedelta(seconds=mint.seconds), tags=tags)
    if mint.is_in_vain:
        stats.incr(BACK_OFFS, tags=tags)
    if token is not None:
        stats.gauge(SECONDS_TO_EXPIRY, token.expires_at - time.time(), tags=tags)


def _stats() -> Any:  # noqa: ANN401 - of another class in each Airflow
    try:
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # before Airflow 3.2
        from airflow.stats import Stats
    return Stats


@cache
def metrics_of_airflow() -> Metrics | None:
    """Give what tells Airflow's metrics; None: Airflow sends none from this process, and nothing is imported."""
    return Metrics() if sends_metrics() else None

"""Airflow's own metrics of lookups, sent by StatsD or OpenTelemetry, as Airflow is configured."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from ecr_secrets_backend.airflow_compat import sends_metrics, stats
from ecr_secrets_backend.logs import log

if TYPE_CHECKING:
    from ecr_secrets_backend.cache import Source
    from ecr_secrets_backend.settings import MappedConnection
    from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

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
    f"{LOOKUPS}host_hit": Metric(
        "counter", "lookups served a token that another process or thread of the host requested"
    ),
    f"{LOOKUPS}mint": Metric("counter", "lookups served a token that they requested"),
    f"{LOOKUPS}stale": Metric(
        "counter", "lookups served a token that is due for renewal, while a renewal runs or AWS fails"
    ),
    f"{LOOKUPS}error": Metric("counter", "failed lookups"),
    MINT_DURATION: Metric("timer", "how long a lookup's own request to AWS took, also if it failed"),
    BACK_OFFS: Metric("counter", "a lookup's own requests to AWS that failed or timed out: a back-off runs"),
    SECONDS_TO_EXPIRY: Metric("gauge", "seconds until the token that was served last expires"),
}

#: Set when Airflow's client fails: it would fail, and take its time, at each lookup.
_has_failed: Final = threading.Event()


def report(
    mapped: MappedConnection, result: Source | Literal["error"], request_seconds: float | None, token: EcrToken | None
) -> None:
    """Send what a lookup came to, if Airflow sends metrics from this process. It raises nothing.

    :param mapped: the connection that was looked up
    :param request_seconds: how long the lookup's own request to AWS took; None: it made none
    :param token: what was served, if anything
    """
    if not sends_metrics() or _has_failed.is_set():
        return
    try:
        _send(mapped, result, request_seconds, token)
    except Exception as error:  # noqa: BLE001 - whatever Airflow raises, a lookup does not fail for it
        _has_failed.set()
        log(
            logger,
            logging.WARNING,
            "Airflow's metrics fail, so this process sends no more metrics of ECR tokens. "
            "Check the section [metrics] of Airflow's configuration. %s: %s",
            type(error).__name__,
            error,
        )


def _send(
    mapped: MappedConnection, result: Source | Literal["error"], request_seconds: float | None, token: EcrToken | None
) -> None:
    client = stats()
    tags = {"conn_id": mapped.conn_id}
    if mapped.identity.region is not None:
        tags["region"] = mapped.identity.region
    client.incr(LOOKUPS + result, tags=tags)
    if request_seconds is not None:
        client.timing(MINT_DURATION, timedelta(seconds=request_seconds), tags=tags)
        if result != "mint":
            client.incr(BACK_OFFS, tags=tags)
    if token is not None:
        client.gauge(SECONDS_TO_EXPIRY, token.expires_at - time.time(), tags=tags)

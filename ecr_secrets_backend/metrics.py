"""Airflow's own metrics of lookups, sent by StatsD or OpenTelemetry, as Airflow is configured."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import Final, Literal

from ecr_secrets_backend.airflow_compat import sends_metrics, stats
from ecr_secrets_backend.cache import Source
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: Each result has a name of its own, because plain StatsD has no tags.
LOOKUPS: Final = "ecr_secrets_backend.lookups."
MINT_DURATION: Final = "ecr_secrets_backend.mint_duration"
BACK_OFFS: Final = "ecr_secrets_backend.back_offs"
SECONDS_TO_EXPIRY: Final = "ecr_secrets_backend.seconds_to_expiry"

_FAILURE: Final = (
    "Airflow's metrics fail, so this process sends no more metrics of ECR tokens. "
    "Check the section [metrics] of Airflow's configuration. %s: %s"
)
#: Set when Airflow's client fails: it would fail, and take time, at each lookup.
_has_failed: Final = threading.Event()


def report(
    mapped: MappedConnection, result: Source | Literal["error"], request_seconds: float | None, token: EcrToken | None
) -> None:
    """Send the result of a lookup, if Airflow sends metrics from this process. It raises nothing.

    :param request_seconds: how long the lookup's own request to AWS took; None: it made none
    :param token: what was served, if anything
    """
    try:
        if _has_failed.is_set() or not sends_metrics():
            return
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
    except Exception as error:  # noqa: BLE001 - whatever Airflow raises, a lookup does not fail for it
        _has_failed.set()
        log(logger, logging.WARNING, _FAILURE, type(error).__name__, error)

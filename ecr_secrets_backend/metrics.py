"""Metrics of lookups, sent with Airflow's own metrics client (StatsD or OpenTelemetry)."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import Final

from ecr_secrets_backend.airflow_compat import sends_metrics, stats
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection

logger = logging.getLogger(__name__)

#: Followed by the result of the lookup, because plain StatsD has no tags.
LOOKUPS: Final = "ecr_secrets_backend.lookups."
MINT_DURATION: Final = "ecr_secrets_backend.mint_duration"
BACK_OFFS: Final = "ecr_secrets_backend.back_offs"
SECONDS_TO_EXPIRY: Final = "ecr_secrets_backend.seconds_to_expiry"

_FAILURE: Final = (
    "Cannot send metrics of ECR tokens, so this process sends no more: %s: %s. "
    "Check the section [metrics] of Airflow's configuration."
)
#: Set after a failure of Airflow's client, which would fail again, and take time, at each lookup.
_has_failed: Final = threading.Event()


def report(connection: MappedConnection, result: Login | TokenError) -> None:
    """Send the result of a lookup, if Airflow sends metrics from this process. Raise nothing."""
    try:
        if _has_failed.is_set() or not sends_metrics():
            return
        client = stats()
        tags = {"conn_id": connection.conn_id}
        if connection.identity.region is not None:
            tags["region"] = connection.identity.region
        source = result.source if isinstance(result, Login) else "error"
        client.incr(LOOKUPS + source, tags=tags)
        if result.request_seconds is not None:
            client.timing(MINT_DURATION, timedelta(seconds=result.request_seconds), tags=tags)
            if source != "mint":
                client.incr(BACK_OFFS, tags=tags)
        if isinstance(result, Login):
            client.gauge(SECONDS_TO_EXPIRY, result.token.expires_at - time.time(), tags=tags)
    except Exception as error:  # noqa: BLE001 - no exception of Airflow's client fails a lookup
        _has_failed.set()
        log(logger, logging.WARNING, _FAILURE, type(error).__name__, error)

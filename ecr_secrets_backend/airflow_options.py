"""What Airflow's own configuration tells us, read at a first lookup: Airflow builds backends before it can be read."""

from __future__ import annotations

import os
from configparser import ConfigParser
from functools import cache

#: Airflow sends metrics if one of these options of its section ``metrics`` is on.
METRICS_SWITCHES = ("statsd_on", "otel_on", "statsd_datadog_enabled")


@cache
def sends_metrics() -> bool:
    """Tell whether Airflow sends metrics from this process."""
    try:
        return any(_is_on("metrics", switch) for switch in METRICS_SWITCHES)
    except Exception:  # noqa: BLE001 - a value that is no truth value stops Airflow's own metrics, and they say so
        return False


@cache
def seconds_kept() -> float:
    """Tell how long Airflow goes on using a connection that it has got: its DAG processor keeps them, if so told.

    Which process we are in is not asked, because Airflow does not say: the setting counts wherever it is.
    """
    from airflow.configuration import conf

    if not _is_on("secrets", "use_cache"):
        return 0.0
    seconds: float = conf.getint("secrets", "cache_ttl_seconds", fallback=900)
    return seconds


def _is_on(section: str, option: str) -> bool:
    """Ask Airflow only for what somebody has set: to ask takes ten times as long as to look."""
    from airflow.configuration import conf

    is_set = f"AIRFLOW__{section}__{option}".upper() in os.environ or ConfigParser.has_option(conf, section, option)
    return is_set and bool(conf.getboolean(section, option))

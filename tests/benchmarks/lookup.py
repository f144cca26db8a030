"""The backend as Airflow builds it in a task, and the first lookup of a process.

It imports little, because a new process calls it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from airflow.sdk import Connection

from ecr_secrets_backend import EcrSecretsBackend

CONN_ID = "docker_default"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
PRIVATE_MEMORY = re.compile(r"^Private_\w+: +(\d+) kB$", re.MULTILINE)


def build_backend(**kwargs: Any) -> EcrSecretsBackend:
    backend = EcrSecretsBackend(**{"connections": {CONN_ID: HOST}, **kwargs})
    backend._set_connection_class(Connection)
    return backend


def read_own_kib() -> int:
    """Return the memory of this process alone (USS), in KiB."""
    return sum(map(int, PRIVATE_MEMORY.findall(Path("/proc/self/smaps_rollup").read_text())))


def measure_first(cache_dir: str | None, *, memory: bool) -> float:
    """
    Measure this process's first lookup, or a request for a token with boto3 alone, without the imports of Airflow.

    :param cache_dir: of the backend; None: use boto3 alone
    :return: the seconds, or the KiB: reading the memory empties the processor's caches, so not both
    """
    backend = build_backend(cache_dir=cache_dir)
    measure = read_own_kib if memory else time.perf_counter
    before = measure()
    if cache_dir:
        backend.get_connection(CONN_ID)
    else:
        import boto3  # noqa: PLC0415 - its import is part of what is measured

        boto3.client("ecr", region_name="us-east-1").get_authorization_token()
    return measure() - before

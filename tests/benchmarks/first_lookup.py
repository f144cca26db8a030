"""Measure the first lookup of this process, without the imports of Airflow and the backend.

A program: ``python -m tests.benchmarks.first_lookup``.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.task_backend import CONN_ID, build_backend
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable

PRIVATE_MEMORY = re.compile(r"^Private_\w+: +(\d+) kB$", re.MULTILINE)


def read_own_kib() -> int:
    """Return the memory of this process alone (USS), in KiB."""
    return sum(map(int, PRIVATE_MEMORY.findall(Path("/proc/self/smaps_rollup").read_text())))


def prepare_lookup(cache_dir: str) -> Callable[[], object]:
    backend = build_backend(cache_dir=cache_dir)
    return lambda: backend.get_connection(CONN_ID).password


def request_with_boto3() -> object:
    import boto3  # noqa: PLC0415 - its import is part of what is measured

    return boto3.client("ecr", region_name="us-east-1").get_authorization_token()["authorizationData"]


def main() -> None:
    cache_dir = programs.order()["cache_dir"]
    work = prepare_lookup(cache_dir) if cache_dir else request_with_boto3
    kib = read_own_kib()
    started_at = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started_at
    assert result
    programs.report({"seconds": seconds, "kib": read_own_kib() - kib})


if __name__ == "__main__":
    main()

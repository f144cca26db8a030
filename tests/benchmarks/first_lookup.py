"""Measure the time or the memory of this process's first lookup, without the imports of Airflow and the backend.

A program: ``python -m tests.benchmarks.first_lookup``. One run measures one of them: reading the memory empties the
processor's caches, after which a lookup takes a third longer.
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
    order = programs.order()
    work = prepare_lookup(order["cache_dir"]) if order["cache_dir"] else request_with_boto3
    measure = read_own_kib if order["memory"] else time.perf_counter
    before = measure()
    result = work()
    programs.report(measure() - before)
    assert result


if __name__ == "__main__":
    main()

"""A new process with Airflow imported, as a task's, that does one thing: ``python -m tests.benchmarks.first_lookup``.

What it measures goes without what the process did before: the import of Airflow, and of the backend with it.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Connection

from ecr_secrets_backend import EcrSecretsBackend
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable

PRIVATE = re.compile(r"^Private_\w+: +(\d+) kB$", re.MULTILINE)


def own_kib() -> int:
    """Tell the memory that is this process's alone (its USS), in KiB."""
    return sum(map(int, PRIVATE.findall(Path("/proc/self/smaps_rollup").read_text())))


def ours(kwargs: dict[str, Any]) -> Callable[[], object]:
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(Connection)  # as Airflow does in a task
    return lambda: backend.get_connection("docker_default").password


def boto3(kwargs: dict[str, Any]) -> Callable[[], object]:  # noqa: ARG001
    def request_token() -> object:
        import boto3  # noqa: PLC0415 - what it takes is to be measured

        return boto3.client("ecr", region_name="us-east-1").get_authorization_token()["authorizationData"]

    return request_token


def main() -> None:
    order = programs.order()
    work = {"ours": ours, "boto3": boto3}[order["whose"]](order["kwargs"])
    modules, memory = len(sys.modules), own_kib()
    started_at = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started_at
    grown = own_kib() - memory
    assert result
    programs.report({"seconds": seconds, "kib": grown, "modules": len(sys.modules) - modules})


if __name__ == "__main__":
    main()

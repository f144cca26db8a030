"""Measure the first lookup of a new process: time, memory, and the import of the package."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.benchmarks.results import Goal, Results, Row, compare, interleave, medians, with_unit
from tests.benchmarks.task_backend import CONN_ID, HOST
from tests.integration import programs
from tests.stand_ins.aws import AwsStandIn

ROUNDS = 11
IMPORT_ROUNDS = 5
HELPER = "docker-credential-ecr-login"
PASSWORD = "x" * 2500  # about as long as ECR's
MEMORY = "/dev/shm"  # noqa: S108 - the default place of the cache
START = """
import json, sys, time
started_at = time.process_time()
import airflow
airflow_at = time.process_time()
modules = sorted(sys.modules)
import ecr_secrets_backend.backend
print(json.dumps({
    "airflow": airflow_at - started_at, "ours": time.process_time() - airflow_at, "modules": modules,
}))
"""


def measure() -> Results:
    with (
        AwsStandIn.running() as aws,
        tempfile.TemporaryDirectory(dir=MEMORY) as cache_dir,
        patch.dict(os.environ, aws.environment()),
    ):
        _measure(cache_dir)  # fills the cache
        return Results([_first_lookup(Path(cache_dir)), _token_request(), _memory(cache_dir), _import()])


def _measure(cache_dir: str | None, *, memory: bool = False) -> float:
    """Measure the first lookup of a new process; without a cache, a request for a token with boto3 alone.

    :return: the seconds, or the KiB of memory
    """
    result: float = programs.run("tests.benchmarks.first_lookup", cache_dir=cache_dir, memory=memory)
    return result


def _fill_helper_cache(folder: Path) -> dict[str, str]:
    """Write a valid token into a cache of the credential helper.

    The format: https://github.com/awslabs/amazon-ecr-credential-helper, ``ecr-login/cache``.

    :return: variables for the helper, which cannot reach AWS with them
    """
    key = AwsStandIn.access_key_id
    prefix = base64.b64encode(key.encode() + hashlib.md5(b"").digest()).decode()  # noqa: S324 - the helper's choice
    account, _, _, region, *_ = HOST.split(".")
    now = datetime.now(timezone.utc)
    entry = {
        "AuthorizationToken": base64.b64encode(f"AWS:{PASSWORD}".encode()).decode(),
        "RequestedAt": now.isoformat(timespec="seconds"),
        "ExpiresAt": (now + timedelta(hours=12)).isoformat(timespec="seconds"),
        "ProxyEndpoint": f"https://{HOST}",
        "Service": "ecr",
    }
    cache = {"Registries": {f"{region}-{prefix}-{account}": entry}, "Version": "1.0"}
    (folder / "cache.json").write_text(json.dumps(cache))
    return {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "AWS_ECR_CACHE_DIR": str(folder),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "not-valid",
        "AWS_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _first_lookup(cache_dir: Path) -> Row:
    environment = _fill_helper_cache(cache_dir)

    def run_helper() -> float:
        started_at = time.perf_counter()
        answer = subprocess.run([HELPER, "get"], input=HOST.encode(), env=environment, capture_output=True, check=True)
        seconds = time.perf_counter() - started_at
        assert json.loads(answer.stdout)["Secret"] == PASSWORD  # from its cache: AWS's token is another
        return seconds

    ours, helper = medians(interleave(ROUNDS, lambda: _measure(str(cache_dir)), run_helper))
    return compare(
        "first lookup of a process, token in the host's cache",
        ours,
        "credential helper",
        helper,
        Goal(100 * ours / helper, 5, "% of its time"),
        Goal(ours * 1e3, 0.4, "ms"),
    )


def _token_request() -> Row:
    def look_up() -> float:
        with tempfile.TemporaryDirectory(dir=MEMORY) as empty:
            return _measure(empty)

    samples = interleave(ROUNDS, look_up, lambda: _measure(None))
    # Each ratio is of neighbours in time: a disturbance of the machine lasts longer than one of them.
    ratio = statistics.median(mine / its for mine, its in zip(*samples, strict=True))
    ours, boto3 = medians(samples)
    return compare(
        "first lookup of a process, empty cache",
        ours,
        "boto3 alone",
        boto3,
        Goal(100 * ratio, 105, "% of its time"),
    )


def _memory(cache_dir: str) -> Row:
    ours, boto3 = medians(
        interleave(IMPORT_ROUNDS, lambda: _measure(cache_dir, memory=True), lambda: _measure(None, memory=True))
    )
    return Row(
        "memory of a first lookup",
        f"{ours:,.0f} KiB",
        "boto3 alone",
        f"{boto3:,.0f} KiB",
        (Goal(100 * ours / boto3, 5, "% of its memory"),),
    )


def _start_airflow(*, configured: bool) -> dict[str, Any]:
    """
    Import Airflow in a new process, and the package after it.

    :param configured: whether Airflow's configuration names the backend, so that Airflow itself imports it
    :return: the seconds of CPU of each, and the names of the modules of Airflow
    """
    environment = dict(os.environ)
    environment.pop("AIRFLOW__SECRETS__BACKEND", None)
    if configured:
        environment["AIRFLOW__SECRETS__BACKEND"] = "ecr_secrets_backend.EcrSecretsBackend"
        environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({"connections": {CONN_ID: HOST}})
    output = subprocess.check_output([sys.executable, "-c", START], env=environment, text=True)
    started: dict[str, Any] = json.loads(output.splitlines()[-1])
    return started


def modules_of_backend() -> list[str]:
    """Return the modules that Airflow's start imports only if the backend is configured."""
    with_backend, without = (set(_start_airflow(configured=configured)["modules"]) for configured in (True, False))
    assert "ecr_secrets_backend.backend" in with_backend
    return sorted(with_backend - without)


def _import() -> Row:
    starts = [_start_airflow(configured=False) for _ in range(IMPORT_ROUNDS)]
    ours, airflow = (statistics.median(start[name] for start in starts) for name in ("ours", "airflow"))
    return Row(
        "CPU time of the package's import",
        with_unit(ours),
        "import of Airflow",
        with_unit(airflow),
        (Goal(100 * ours / airflow, 1, "% of its time"),),
    )

"""What a new process pays: its first lookup, its first mint, the import of the package, and memory."""

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

from tests.benchmarks.results import Findings, Goal, Row, interleaved, medians, shown
from tests.integration import programs
from tests.stand_ins.aws import AwsStandIn

ACCOUNT = "123456789012"
REGION = "us-east-1"
HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ROUNDS = 11
IMPORT_ROUNDS = 5
HELPER = "docker-credential-ecr-login"
PASSWORD = "x" * 2500  # about as long as ECR's
HEAVY = ("boto3", "botocore", "rich", "airflow.providers")
MEMORY = "/dev/shm"  # noqa: S108 - where the cache is by default
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


def measure() -> Findings:
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    with AwsStandIn.running() as aws, tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        warm = {"connections": {"docker_default": HOST}, "cache_dir": folder}
        with patch.dict(os.environ, aws.environment()):
            _probe("ours", warm)
            for row, samples in (_first_lookup(warm, Path(folder)), _authorize(), _memory(warm), _import()):
                rows.append(row)
                figures |= samples
    return Findings(rows, figures)


def _probe(whose: str, kwargs: dict[str, Any] | None = None) -> dict[str, float]:
    found: dict[str, float] = programs.run("tests.benchmarks.first_lookup", whose=whose, kwargs=kwargs)
    return found


def helper_environment(folder: Path) -> dict[str, str]:
    """Give the credential helper a cache with a live token, in its own format, and no way to any other.

    The format: https://github.com/awslabs/amazon-ecr-credential-helper, ``ecr-login/cache``.
    """
    key = AwsStandIn.access_key_id
    prefix = base64.b64encode(key.encode() + hashlib.md5(b"").digest()).decode()  # noqa: S324 - the helper's choice
    now = datetime.now(timezone.utc)
    entry = {
        "AuthorizationToken": base64.b64encode(f"AWS:{PASSWORD}".encode()).decode(),
        "RequestedAt": now.isoformat(timespec="seconds"),
        "ExpiresAt": (now + timedelta(hours=12)).isoformat(timespec="seconds"),
        "ProxyEndpoint": f"https://{HOST}",
        "Service": "ecr",
    }
    cache = {"Registries": {f"{REGION}-{prefix}-{ACCOUNT}": entry}, "Version": "1.0"}
    (folder / "cache.json").write_text(json.dumps(cache))
    return {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "AWS_ECR_CACHE_DIR": str(folder),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "no-way-to-aws",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _first_lookup(warm: dict[str, Any], folder: Path) -> tuple[Row, dict[str, Any]]:
    environment = helper_environment(folder)

    def helper() -> float:
        started_at = time.perf_counter()
        answer = subprocess.run([HELPER, "get"], input=HOST.encode(), env=environment, capture_output=True, check=True)
        seconds = time.perf_counter() - started_at
        assert json.loads(answer.stdout)["Secret"] == PASSWORD  # the cache's: AWS would give another one
        return seconds

    samples = interleaved(ROUNDS, lambda: _probe("ours", warm)["seconds"], helper)
    ours, theirs = medians(samples)
    row = Row(
        "token in the host's cache, first lookup of a new process",
        shown(ours),
        f"{HELPER} get, with a warm cache",
        shown(theirs),
        (Goal("ratio", ours / theirs, 1 / 20), Goal("ms", ours * 1e3, 0.4)),
    )
    return row, {"first lookup": dict(zip(("ours", "credential helper"), samples, strict=True))}


def _authorize() -> tuple[Row, dict[str, Any]]:
    def request_token() -> float:
        with tempfile.TemporaryDirectory(dir=MEMORY) as empty:
            return _probe("ours", {"connections": {"docker_default": HOST}, "cache_dir": empty})["seconds"]

    samples = interleaved(ROUNDS, request_token, lambda: _probe("boto3")["seconds"])
    ours, theirs = medians(samples)
    # Of neighbours in time, because what disturbs a machine lasts longer than one of them.
    ratio = statistics.median(mine / its for mine, its in zip(*samples, strict=True))
    row = Row(
        "cold mint, imports included",
        shown(ours),
        "bare boto3 get_authorization_token",
        shown(theirs),
        (Goal("ratio", ratio, 1.05),),
    )
    return row, {"mint": dict(zip(("ours", "bare boto3"), samples, strict=True))}


def _memory(warm: dict[str, Any]) -> tuple[Row, dict[str, Any]]:
    samples = interleaved(IMPORT_ROUNDS, lambda: _probe("ours", warm)["kib"], lambda: _probe("boto3")["kib"])
    ours, theirs = medians(samples)
    row = Row(
        "memory that a lookup adds on a hit (USS)",
        f"{ours:,.0f} KiB",
        "bare boto3 mint",
        f"{theirs:,.0f} KiB",
        (Goal("ratio", ours / theirs, 1 / 20),),
    )
    return row, {"memory": dict(zip(("ours", "bare boto3"), samples, strict=True))}


def start_airflow(*, configured: bool) -> dict[str, Any]:
    """
    Import Airflow in a new process, and the package after it; CPU time, because another process's turn is no cost.

    :param configured: whether the backend is in Airflow's configuration, so that Airflow imports it by itself
    :return: the seconds that each of the two took, and the names of all modules
    """
    environment = dict(os.environ)
    environment.pop("AIRFLOW__SECRETS__BACKEND", None)
    if configured:
        environment["AIRFLOW__SECRETS__BACKEND"] = "ecr_secrets_backend.EcrSecretsBackend"
        environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({"connections": {"docker_default": HOST}})
    command = [sys.executable, "-c", START]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment, text=True).splitlines()[-1])
    return found


def brought_modules() -> list[str]:
    """Name the modules that are imported at Airflow's start because the backend is configured."""
    with_backend, without = (set(start_airflow(configured=configured)["modules"]) for configured in (True, False))
    assert "ecr_secrets_backend.backend" in with_backend
    return sorted(with_backend - without)


def _import() -> tuple[Row, dict[str, Any]]:
    brought = brought_modules()
    heavy = [name for name in brought if name.startswith(HEAVY)]
    starts = [start_airflow(configured=False) for _ in range(IMPORT_ROUNDS)]
    ours, airflow = (statistics.median(start[whose] for start in starts) for whose in ("ours", "airflow"))
    row = Row(
        "import of the package at Airflow's start (CPU)",
        f"{shown(ours)}, {len(brought)} modules",
        "import airflow",
        shown(airflow),
        (Goal("part of Airflow's own import", ours / airflow, 0.01), Goal("heavy modules", len(heavy), 0)),
    )
    return row, {"modules": brought}

"""Measure the first lookup of a new process: time, memory, and the import of the package."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

from tests.benchmarks.lookup import HOST, measure_first
from tests.benchmarks.results import Goal, Pair, Results, Row, compare, measure_pair
from tests.integration import programs
from tests.stand_ins.aws import AwsStandIn

ROUNDS = 11
FEW_ROUNDS = 5
PASSWORD = "x" * 2500  # about as long as ECR's
MEMORY = "/dev/shm"  # noqa: S108 - the default place of the cache
IMPORTS = """
import time
started_at = time.process_time()
import airflow
airflow_at = time.process_time()
import ecr_secrets_backend.backend
print(time.process_time() - airflow_at, airflow_at - started_at)
"""


def measure() -> Results:
    with (
        AwsStandIn.running() as aws,
        tempfile.TemporaryDirectory(dir=MEMORY) as cache_dir,
        patch.dict(os.environ, aws.environment()),
    ):
        _measure(cache_dir)  # fills the cache
        return [_first_lookup(cache_dir), _token_request(), _memory(cache_dir), _import()], {}


def _measure(cache_dir: str | None, *, memory: bool = False) -> float:
    return programs.call(measure_first, cache_dir=cache_dir, memory=memory)


def _fill_helper_cache(folder: str) -> dict[str, str]:
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
    Path(folder, "cache.json").write_text(json.dumps(cache))
    return {
        "HOME": folder,
        "PATH": os.environ["PATH"],
        "AWS_ECR_CACHE_DIR": folder,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "not-valid",
        "AWS_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _first_lookup(cache_dir: str) -> Row:
    environment = _fill_helper_cache(cache_dir)

    def run_helper() -> float:
        started_at = time.perf_counter()
        helper = ["docker-credential-ecr-login", "get"]
        answer = subprocess.run(helper, input=HOST.encode(), env=environment, capture_output=True, check=True)
        seconds = time.perf_counter() - started_at
        assert json.loads(answer.stdout)["Secret"] == PASSWORD  # from its cache: AWS's token is another
        return seconds

    pair = measure_pair(ROUNDS, partial(_measure, cache_dir), run_helper)
    goals = (Goal(pair.percent, 5, "% of its time"), Goal(pair.ours * 1e3, 0.4, "ms"))
    what = "first lookup of a process, token in the host's cache"
    return compare(what, "credential helper", pair, *goals, on_chart=True)


def _token_request() -> Row:
    def look_up() -> float:
        with tempfile.TemporaryDirectory(dir=MEMORY) as empty:
            return _measure(empty)

    # Each ratio is of neighbours in time: a disturbance of the machine lasts longer than one of them.
    pairs = [Pair(look_up(), _measure(None)) for _ in range(ROUNDS)]
    goal = Goal(median(pair.percent for pair in pairs), 105, "% of its time")
    medians = Pair(*map(median, zip(*pairs, strict=True)))
    return compare("first lookup of a process, empty cache", "boto3 alone", medians, goal, on_chart=True)


def _memory(cache_dir: str) -> Row:
    pair = measure_pair(FEW_ROUNDS, *(partial(_measure, place, memory=True) for place in (cache_dir, None)))
    ours, boto3 = (f"{kib:,.0f} KiB" for kib in pair)
    return Row("memory of a first lookup", ours, "boto3 alone", boto3, (Goal(pair.percent, 5, "% of its memory"),))


def _import() -> Row:
    outputs = [subprocess.check_output([sys.executable, "-c", IMPORTS], text=True) for _ in range(FEW_ROUNDS)]
    samples = [map(float, output.splitlines()[-1].split()) for output in outputs]
    pair = Pair(*map(median, zip(*samples, strict=True)))
    goal = Goal(pair.percent, 1, "% of its time")
    return compare("CPU time of the package's import", "import of Airflow", pair, goal)

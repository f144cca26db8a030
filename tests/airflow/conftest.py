from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import BACKEND, Run, run_airflow
from tests.airflow_version import HAS_PAGES
from tests.stand_ins.aws import AwsStandIn
from tests.stand_ins.statsd import StatsD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

collect_ignore = [] if HAS_PAGES else ["test_page.py"]
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a whole Airflow once, for all tests."""
    with AwsStandIn.running() as aws, StatsD.running() as statsd:
        yield run_airflow(tmp_path_factory.mktemp("airflow"), aws, statsd)


@pytest.fixture
def aws(aws_server: AwsStandIn) -> AwsStandIn:
    aws_server.reset()
    return aws_server


@pytest.fixture
def environment(aws: AwsStandIn, tmp_path: Path) -> dict[str, str]:
    """Return the variables of an Airflow that has the backend."""
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")}
    return {
        **os.environ,
        **aws.environment(),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONWARNINGS": "default",
        "AIRFLOW__SECRETS__BACKEND": BACKEND,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
    }


def execute(environment: Mapping[str, str], *command: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, timeout=50
    )
    assert done.returncode == exit_code, done.stderr
    return done

from __future__ import annotations

import pytest

from tests.airflow.deployment import Run, run_airflow
from tests.airflow_version import HAS_PAGES
from tests.stand_ins.aws import AwsStandIn
from tests.stand_ins.statsd import StatsD

collect_ignore = [] if HAS_PAGES else ["test_page.py"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a whole Airflow once, and return the results of its tasks for all tests."""
    with AwsStandIn.running() as aws, StatsD.running() as statsd:
        return run_airflow(tmp_path_factory.mktemp("airflow"), aws, statsd)

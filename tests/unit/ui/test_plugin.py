"""What Airflow loads in every process: next to nothing."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from tests.airflow_version import PLUGIN_LOADERS

LOAD = """
import json, sys, time
import {loader}
before = set(sys.modules)
started_at = time.process_time()
from ecr_secrets_backend.ui.plugin import EcrConnectionsPlugin
print(json.dumps([time.process_time() - started_at, sorted(set(sys.modules) - before)]))
"""
LONGEST_SECONDS = 0.001


@pytest.mark.parametrize("loader", PLUGIN_LOADERS)
def test_a_task_pays_next_to_nothing_for_it(loader: str) -> None:
    """A millisecond at most, and no module but the package's own: the page is imported at its first request."""
    command = [sys.executable, "-c", LOAD.format(loader=loader)]
    loads = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(3)]
    package = {"ecr_secrets_backend", "ecr_secrets_backend.ui", "ecr_secrets_backend.ui.plugin"}

    assert {*itertools.chain.from_iterable(modules for _, modules in loads)} <= package
    assert min(seconds for seconds, _ in loads) <= LONGEST_SECONDS

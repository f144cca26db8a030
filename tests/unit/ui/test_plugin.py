"""What Airflow loads in every process: next to nothing."""

from __future__ import annotations

import itertools
import json
import os
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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    outputs = [subprocess.check_output(command, env=environment, text=True) for _ in range(4)]  # the first one compiles
    loads = [json.loads(output.splitlines()[-1]) for output in outputs]
    package = {"ecr_secrets_backend", "ecr_secrets_backend.ui", "ecr_secrets_backend.ui.plugin"}

    assert {*itertools.chain.from_iterable(modules for _, modules in loads)} <= package
    assert min(seconds for seconds, _ in loads) <= LONGEST_SECONDS

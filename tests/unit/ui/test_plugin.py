"""The cost of the plugin, which Airflow loads in every process."""

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
MAX_SECONDS = 0.001


@pytest.mark.parametrize("loader", PLUGIN_LOADERS)
def test_the_plugin_imports_nothing_but_itself(loader: str) -> None:
    """It takes at most a millisecond. The first request imports the page."""
    command = [sys.executable, "-c", LOAD.format(loader=loader)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    outputs = [subprocess.check_output(command, env=environment, text=True) for _ in range(4)]  # the first one compiles
    loads = [json.loads(output.splitlines()[-1]) for output in outputs]
    package = {"ecr_secrets_backend", "ecr_secrets_backend.ui", "ecr_secrets_backend.ui.plugin"}

    assert {*itertools.chain.from_iterable(modules for _, modules in loads)} <= package
    assert min(seconds for seconds, _ in loads) <= MAX_SECONDS

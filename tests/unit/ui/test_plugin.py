"""The cost of the plugin, which every process of Airflow loads. ``tests/airflow/test_provider.py`` loads it there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.airflow_version import PLUGIN_LOADERS

#: Imports the plugin some times in a process that has its loader. The first time compiles.
LOAD = """
import __future__, importlib, json, sys, time, types, typing
sys.modules["{loader}"] = types.SimpleNamespace(AirflowPlugin=object)
before, loads = set(sys.modules), []
for _ in range(4):
    for name in set(sys.modules) - before:
        del sys.modules[name]
    started_at = time.process_time()
    from ecr_secrets_backend.ui.plugin import EcrConnectionsPlugin
    loads.append(time.process_time() - started_at)
print(json.dumps([min(loads), sorted(set(sys.modules) - before)]))
"""
MAX_SECONDS = 0.001


@pytest.mark.parametrize("loader", PLUGIN_LOADERS)
def test_the_plugin_imports_nothing_but_itself(loader: str) -> None:
    """It takes at most a millisecond. The first request imports the page."""
    seconds, modules = json.loads(subprocess.check_output([sys.executable, "-c", LOAD.format(loader=loader)]))

    assert {*modules} <= {"ecr_secrets_backend", "ecr_secrets_backend.ui", "ecr_secrets_backend.ui.plugin"}
    assert seconds <= MAX_SECONDS

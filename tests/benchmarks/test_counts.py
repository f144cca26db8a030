"""The costs of a lookup that noise does not change; ``make bench`` measures the time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from tests.benchmarks.lookup import CONN_ID, HOST, build_backend
from tests.requirements import need_programs
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TIMES = 10
#: Makes lookups of each kind, each after a system call that nothing else makes.
LOOKUPS = f"""if True:
    import gc, os, sys
    from ecr_secrets_backend.cache import Memory
    from tests.benchmarks.lookup import CONN_ID, build_backend

    backend = build_backend(cache_dir=sys.argv[1])
    memories = [Memory() for _ in range({TIMES} + 1)]

    def look_up_in_host_cache():
        backend._logins._resolved.clear()
        backend._logins._cache._memory = memories.pop()
        backend.get_connection(CONN_ID)

    gc.disable()  # else it runs during some lookups only
    for look_up in (
        lambda: backend.get_connection("no_such_id"),
        lambda: backend.get_connection(CONN_ID),
        look_up_in_host_cache,
    ):
        look_up()  # imports modules and fills caches
        os.getppid()
        for _ in range({TIMES}):
            look_up()
        os.getppid()
"""
#: Some kernels read the clock without a system call, and Python requests memory now and then.
NOT_COUNTED = {"clock_gettime", "brk", "mmap", "munmap"}
#: A lookup opens, checks and closes the folder and the file, and checks boto3's four credential files.
FROM_HOST_CACHE = Counter(openat=2, newfstatat=6, geteuid=3, read=1, close=2)
MODULES = "import airflow.configuration, sys; print('\\n', *sys.modules)"


def test_a_lookup_makes_only_the_system_calls_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes none for an ID that is not mapped or a token in memory, and reads one small file from the host."""
    need_programs("strace")
    trace = tmp_path / "trace"
    with AwsStandIn.running() as aws:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        build_backend(cache_dir=str(tmp_path)).get_connection(CONN_ID)
        # Without --follow-forks, strace traces only the thread that looks up.
        subprocess.run(["strace", f"--output={trace}", sys.executable, "-c", LOOKUPS, tmp_path], check=True)

    parts = re.split(r"^getppid.*$", trace.read_text(), flags=re.MULTILINE)[1::2]
    counts = [Counter(re.findall(r"^(\w+)\(", part, re.MULTILINE)) for part in parts]
    expected = [Counter(), Counter(), Counter({name: TIMES * count for name, count in FROM_HOST_CACHE.items()})]
    assert [{name: each[name] for name in each.keys() - NOT_COUNTED} for each in counts] == expected


def test_airflow_starts_with_no_other_modules_than_the_packages_own() -> None:
    """The lookup that needs boto3, rich or a provider imports it."""
    backend = {
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections": {CONN_ID: HOST}}),
    }
    with_backend, without = (
        subprocess.check_output([sys.executable, "-c", MODULES], env=os.environ | options, text=True).split("\n")[-2]
        for options in (backend, {})
    )

    new = set(with_backend.split()) - set(without.split())
    assert "ecr_secrets_backend.backend" in new
    assert {name.partition(".")[0] for name in new} <= {"ecr_secrets_backend", "cachetools"}

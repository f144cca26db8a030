"""The costs of a lookup that noise does not change; ``make bench`` measures the time."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

from tests.benchmarks.counts import count_system_calls
from tests.benchmarks.new_process import modules_of_backend
from tests.benchmarks.task_backend import CONN_ID, build_backend
from tests.requirements import skip_or_fail
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: A lookup opens, checks and closes the folder and the file, and checks boto3's four credential files.
FROM_HOST_CACHE = Counter(openat=2, newfstatat=6, geteuid=3, read=1, close=2)


def test_a_lookup_makes_only_the_system_calls_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes none for an ID that is not mapped or a token in memory, and reads one small file from the host."""
    if shutil.which("strace") is None:
        skip_or_fail("Debian's package strace is missing")
    with AwsStandIn.running() as aws:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        build_backend(cache_dir=str(tmp_path)).get_connection(CONN_ID)

        counts = count_system_calls(str(tmp_path))

    assert [*counts.values()] == [Counter(), Counter(), FROM_HOST_CACHE]


def test_airflow_starts_with_no_other_modules_than_the_packages_own() -> None:
    """The lookup that needs boto3, rich or a provider imports it."""
    expected = {"ecr_secrets_backend", "cachetools"}

    assert [name for name in modules_of_backend() if name.partition(".")[0] not in expected] == []

"""What a lookup may cost at most, in figures that noise does not touch; ``make bench`` shows what it costs in time."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.counts import STRACE, system_calls, warm
from tests.benchmarks.new_process import brought_modules
from tests.requirements import skip_or_fail
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The folder and the file in it are opened, checked and closed, and the four files in which boto3 looks for credentials
#: are looked for.
FROM_HOST = Counter(openat=2, newfstatat=6, geteuid=3, read=1, close=2)


@pytest.fixture
def kwargs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Lead to a token in a host's cache."""
    with AwsStandIn.running() as aws:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        yield warm(str(tmp_path))


def need(tool: list[str], package: str) -> None:
    try:
        subprocess.run([*tool, "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        skip_or_fail(f"Debian's package {package} is missing")


def test_a_lookup_makes_no_system_call_that_it_does_not_need(kwargs: dict[str, Any]) -> None:
    """None where the process has the token, or the connection is not ours; one small file is read from the host's."""
    need(STRACE[:1], "strace")

    calls = system_calls(kwargs)

    assert calls == {"unmapped": Counter(), "in the process": Counter(), "in the host's cache": FROM_HOST}


def test_airflow_starts_with_no_other_modules_than_the_packages_own() -> None:
    """No boto3, no botocore, no rich, no provider: whatever is heavy is imported by the lookup that needs it."""
    expected = {"ecr_secrets_backend", "cachetools"}
    others = [name for name in brought_modules() if name.partition(".")[0] not in expected]

    assert others == []

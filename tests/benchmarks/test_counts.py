"""What a lookup may cost at most, in figures that noise does not touch; ``make bench`` shows what it costs in time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.counts import STRACE, VALGRIND, count_instructions, system_calls, warm
from tests.benchmarks.new_process import brought_modules
from tests.requirements import give_up
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The folder and the file in it are opened, checked and closed, and AWS's two shared files are looked for.
FROM_HOST = Counter(openat=2, newfstatat=4, geteuid=3, read=1, close=2)
#: Thousands of them in a lookup, with the token in the process and in the host's cache, by version of Python.
INSTRUCTIONS = {(3, 10): (25, 553), (3, 11): (16, 454), (3, 12): (16, 500), (3, 13): (11, 477)}
#: Other builds of the same Python take some more; what is worth a look takes more than that.
MARGIN = 1.15


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
        give_up(f"Debian's package {package} is missing")


def test_a_lookup_makes_no_system_call_that_it_does_not_need(kwargs: dict[str, Any]) -> None:
    """None where the process has the token, or the connection is not ours; one small file is read from the host's."""
    need(STRACE[:1], "strace")

    calls = system_calls(kwargs)

    assert calls == {"unmapped": Counter(), "in the process": Counter(), "in the host's cache": FROM_HOST}


def test_a_lookup_takes_no_more_instructions_than_it_did(kwargs: dict[str, Any]) -> None:
    """Of the package's own; what Airflow's Connection takes differs from version to version."""
    need(VALGRIND[:1], "valgrind")

    found = count_instructions(kwargs, "cache")

    in_process, in_host = INSTRUCTIONS[sys.version_info[:2]]
    assert found["in the process"] < in_process * 1000 * MARGIN
    assert found["in the host's cache"] < in_host * 1000 * MARGIN


def test_airflow_starts_with_no_other_modules_than_the_packages_own() -> None:
    """No boto3, no botocore, no rich, no provider: whatever is heavy is imported by the lookup that needs it."""
    expected = {"ecr_secrets_backend", "cachetools"}
    others = [name for name in brought_modules() if name.partition(".")[0] not in expected]

    assert others == []

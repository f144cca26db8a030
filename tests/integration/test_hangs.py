"""Sources of credentials that hang or are slow: what the processes of a host get, and what they leave behind."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.faults import look_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
SLOW_SECONDS = 16  # longer than a caller waits for a renewal, shorter than a request may take
KEYS = '{"Version": 1, "AccessKeyId": "AKIAONLOOPBACKSTANDS", "SecretAccessKey": "a-key"}'
#: Takes a second instead of twenty to give up, and half a second instead of five to try again.
SHORT_TIMES = {
    "ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS": 1.0,
    "ecr_secrets_backend.entry.BACK_OFF_SECONDS": 0.5,
}


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    return {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def credential_program(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Make a program the only source of credentials; returns the file in which each of its starts is a line."""

    def make(shell: str) -> Path:
        starts = tmp_path / "starts"
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho start >> {starts}\n{shell}\necho '{KEYS}'\n")
        program.chmod(0o755)
        (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        return starts

    del aws
    return make


def test_a_program_that_hung_once_costs_one_timeout(
    aws: AwsStandIn,
    processes: Processes,
    kwargs: dict[str, Any],
    credential_program: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """The process in which it hangs is served after the back-off, while it still hangs; others do not wait for it."""
    hung = tmp_path / "hung"
    starts = credential_program(f"[ -e {hung} ] || {{ touch {hung}; sleep 20; }}")

    with (
        processes.start(look_up, kwargs, aws, 1, 10, SHORT_TIMES) as one,
        processes.start(look_up, kwargs, aws, 1, 10, SHORT_TIMES) as other,
    ):
        experiences = one.result(), other.result()

    for experience in experiences:
        assert experience.lookups[-1].valid
        assert {lookup.error is None or "TimedOut" in lookup.error for lookup in experience.lookups} == {True}
        assert max(lookup.seconds for lookup in experience.lookups) < 3
    assert len(starts.read_text().splitlines()) == 2
    assert len(aws.calls()) == 1


@pytest.mark.timeout(90)
def test_a_slow_program_is_started_once_by_a_host(
    aws: AwsStandIn, processes: Processes, kwargs: dict[str, Any], credential_program: Callable[[str], Path]
) -> None:
    """All of its processes wait for the one that has started it, and are served soon after its answer."""
    starts = credential_program(f"sleep {SLOW_SECONDS}")

    began = time.monotonic()
    with ExitStack() as stack:
        running = [stack.enter_context(processes.start(look_up, kwargs, aws)) for _ in range(8)]
        experiences = [process.result() for process in running]

    assert time.monotonic() - began < SLOW_SECONDS + 5
    assert all(experience.lookups[0].valid for experience in experiences)
    assert len(starts.read_text().splitlines()) == 1
    assert len(aws.calls()) == 1

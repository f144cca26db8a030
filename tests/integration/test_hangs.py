"""Credential programs that hang or are slow: a host starts them once, and its processes are served."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process_helpers import Host
    from tests.stand_ins.aws import AwsStandIn

#: The timeouts of users, by four, with a program that takes 16 s by four: nearly as long as a request may take.
QUARTER_TIMES = {
    "ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS": 5.0,
    "ecr_secrets_backend.cache.LOCK_TIMEOUT_SECONDS": 5.5,
    "ecr_secrets_backend.cache.LOOKUP_TIMEOUT_SECONDS": 7.0,
}
SLOW_SECONDS = 4
KEYS = '{"Version": 1, "AccessKeyId": "AKIAONLOOPBACKSTANDS", "SecretAccessKey": "a-key"}'
#: Time out after a second instead of twenty, and retry after half a second instead of five.
SHORT_TIMES = {
    "ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS": 1.0,
    "ecr_secrets_backend.entry.BACK_OFF_SECONDS": 0.5,
}


@pytest.fixture
def credential_program(bare: AwsStandIn, tmp_path: Path) -> Callable[[str], Path]:
    """Make a program the only source of credentials; return the file to which it writes a line when it starts."""
    del bare
    starts, program = tmp_path / "starts", tmp_path / "program"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")

    def make(shell: str) -> Path:
        program.write_text(f"#!/bin/sh\necho start >> {starts}\n{shell}\necho '{KEYS}'\n")
        program.chmod(0o755)
        return starts

    return make


def test_a_program_that_hung_once_costs_one_timeout(
    host: Host, credential_program: Callable[[str], Path], tmp_path: Path
) -> None:
    """The process in which it still hangs is served after the back-off; other processes do not wait for it."""
    hung = tmp_path / "hung"
    starts = credential_program(f"[ -e {hung} ] || {{ touch {hung}; sleep 20; }}")

    with host.start(1, 10, SHORT_TIMES) as one, host.start(1, 10, SHORT_TIMES) as other:
        processes = one.result(), other.result()

    for process in processes:
        assert process.lookups[-1].valid
        assert {lookup.error is None or "TimedOut" in lookup.error for lookup in process.lookups} == {True}
        assert process.seconds < 3
    assert len(starts.read_text().splitlines()) == 2
    assert host.token_requests == 1


def test_a_slow_program_is_started_once_by_a_host(host: Host, credential_program: Callable[[str], Path]) -> None:
    """All processes wait for the one that has started it, and are served soon after its answer."""
    starts = credential_program(f"sleep {SLOW_SECONDS}")

    began = time.monotonic()
    with ExitStack() as stack:
        running = [stack.enter_context(host.start(1, 0, QUARTER_TIMES)) for _ in range(8)]
        processes = [process.result() for process in running]

    assert time.monotonic() - began < SLOW_SECONDS + 4
    assert all(process.lookups[0].valid for process in processes)
    assert len(starts.read_text().splitlines()) == 1
    assert host.token_requests == 1

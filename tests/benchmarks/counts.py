"""What a lookup does, in figures that noise does not touch: system calls, by strace, and instructions, by valgrind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from ecr_secrets_backend import EcrSecretsBackend
from tests.benchmarks.results import Findings, Row
from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STRACE = ["strace", "--follow-forks", "--output-separately", "--quiet=all"]
VALGRIND = ["valgrind", "--tool=callgrind", "--quiet"]
CALLED = re.compile(r"^(\w+)\(", re.MULTILINE)
TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)
STRACE_TIMES, VALGRIND_TIMES = 10, 100
#: Telling the time is no system call but where the kernel alone can read the clock, and Python asks for memory now and
#: then, whoever needs it.
NOT_COUNTED = ("clock_gettime", "brk", "mmap", "munmap")
Way = Literal["backend", "cache"]


def measure() -> Findings:
    with (
        AwsStandIn.running() as aws,
        tempfile.TemporaryDirectory() as cache_dir,
        patch.dict(os.environ, aws.environment()),
    ):
        kwargs = warm(cache_dir)
        calls, instructions = system_calls(kwargs), count_instructions(kwargs, "backend")
    rows = [
        Row(
            f"one lookup does: {kind}",
            f"{sum(calls[kind].values())} system calls",
            ", ".join(f"{times} {name}" for name, times in sorted(calls[kind].items())) or "none",
            f"{instructions[kind]:,.0f} instructions",
        )
        for kind in calls
    ]
    return Findings(rows, {"system calls": calls, "instructions": instructions})


def warm(cache_dir: str) -> dict[str, Any]:
    """Mint a token into a host's cache, and give the kwargs that lead there."""
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": cache_dir}
    EcrSecretsBackend(**kwargs).get_connection("docker_default")
    return kwargs


def system_calls(kwargs: dict[str, Any], way: Way = "backend") -> dict[str, Counter[str]]:
    """Tell how often one lookup of each kind makes each system call."""
    with tempfile.TemporaryDirectory() as folder:
        trace = f"{folder}/trace"
        pids = _run([*STRACE, f"--output={trace}"], kwargs, way, STRACE_TIMES)
        counted = {
            kind: [Counter(CALLED.findall(Path(f"{trace}.{pid}").read_text())) for pid in both]
            for kind, both in pids.items()
        }
    counts: dict[str, Counter[str]] = {}
    for kind, (once, twice) in counted.items():
        more = twice - once
        for name in NOT_COUNTED:
            del more[name]
        assert all(times % STRACE_TIMES == 0 for times in more.values()), f"not every lookup does the same: {more}"
        counts[kind] = Counter({name: times // STRACE_TIMES for name, times in more.items()})
    return counts


def count_instructions(kwargs: dict[str, Any], way: Way) -> dict[str, float]:
    """Tell how many instructions one lookup of each kind takes."""
    with tempfile.TemporaryDirectory() as folder:
        pids = _run([*VALGRIND, f"--callgrind-out-file={folder}/%p"], kwargs, way, VALGRIND_TIMES)
        totals = {kind: [_total(Path(folder, str(pid))) for pid in both] for kind, both in pids.items()}
    return {kind: (twice - once) / VALGRIND_TIMES for kind, (once, twice) in totals.items()}


def _total(profile: Path) -> int:
    found = TOTAL.search(profile.read_text())
    assert found is not None
    return int(found[1])


def _run(tool: list[str], kwargs: dict[str, Any], way: Way, times: int) -> dict[str, list[int]]:
    order = json.dumps({"way": way, "kwargs": kwargs, "times": times})
    command = [*tool, sys.executable, "-m", "tests.benchmarks.lookups", order]
    told = subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": "0"})
    pids: dict[str, list[int]] = json.loads(told.splitlines()[-1])
    return pids

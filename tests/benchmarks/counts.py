"""What a lookup does, in figures that noise does not touch: its system calls, counted by strace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ecr_secrets_backend import EcrSecretsBackend
from tests.benchmarks.results import Findings, Row
from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STRACE = ["strace", "--follow-forks", "--output-separately", "--quiet=all"]
CALLED = re.compile(r"^(\w+)\(", re.MULTILINE)
TIMES = 10
#: Telling the time is no system call but where the kernel alone can read the clock, and Python asks for memory now and
#: then, whoever needs it.
NOT_COUNTED = ("clock_gettime", "brk", "mmap", "munmap")


def measure() -> Findings:
    with (
        AwsStandIn.running() as aws,
        tempfile.TemporaryDirectory() as cache_dir,
        patch.dict(os.environ, aws.environment()),
    ):
        calls = system_calls(warm(cache_dir))
    rows = [
        Row(
            f"one lookup does: {kind}",
            f"{counted.total()} system calls",
            "each by name",
            ", ".join(f"{times} {name}" for name, times in sorted(counted.items())) or "none",
        )
        for kind, counted in calls.items()
    ]
    return Findings(rows, {"system calls": calls})


def warm(cache_dir: str) -> dict[str, Any]:
    """Mint a token into a host's cache, and give the kwargs that lead there."""
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": cache_dir}
    EcrSecretsBackend(**kwargs).get_connection("docker_default")
    return kwargs


def system_calls(kwargs: dict[str, Any]) -> dict[str, Counter[str]]:
    """Tell how often one lookup of each kind makes each system call."""
    with tempfile.TemporaryDirectory() as folder:
        trace = f"{folder}/trace"
        order = json.dumps({"kwargs": kwargs, "times": TIMES})
        command = [*STRACE, f"--output={trace}", sys.executable, "-m", "tests.benchmarks.lookups", order]
        output = subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": "0"})
        pids: dict[str, list[int]] = json.loads(output.splitlines()[-1])
        counted = {
            kind: [Counter(CALLED.findall(Path(f"{trace}.{pid}").read_text())) for pid in both]
            for kind, both in pids.items()
        }
    counts: dict[str, Counter[str]] = {}
    for kind, (once, twice) in counted.items():
        more = twice - once
        for name in NOT_COUNTED:
            del more[name]
        assert all(times % TIMES == 0 for times in more.values()), f"not every lookup does the same: {more}"
        counts[kind] = Counter({name: times // TIMES for name, times in more.items()})
    return counts

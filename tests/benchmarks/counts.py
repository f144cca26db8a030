"""Count the system calls of a lookup with strace: noise does not change these numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

STRACE = ["strace", "--follow-forks", "--output-separately", "--quiet=all"]
SYSTEM_CALL = re.compile(r"^(\w+)\(", re.MULTILINE)
TIMES = 10
#: Some kernels read the clock without a system call, and Python requests memory now and then.
NOT_COUNTED = ("clock_gettime", "brk", "mmap", "munmap")


def count_system_calls(cache_dir: str) -> dict[str, Counter[str]]:
    """Return how often one lookup of each kind makes each system call; the cache has a token."""
    with tempfile.TemporaryDirectory() as folder:
        trace = f"{folder}/trace"
        order = json.dumps({"cache_dir": cache_dir, "times": TIMES})
        command = [*STRACE, f"--output={trace}", sys.executable, "-m", "tests.benchmarks.lookups", order]
        output = subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": "0"})
        pids: dict[str, list[int]] = json.loads(output.splitlines()[-1])
        pairs = {
            kind: [Counter(SYSTEM_CALL.findall(Path(f"{trace}.{pid}").read_text())) for pid in pair]
            for kind, pair in pids.items()
        }
    counts: dict[str, Counter[str]] = {}
    for kind, (once, twice) in pairs.items():
        difference = twice - once
        for name in NOT_COUNTED:
            del difference[name]
        assert all(count % TIMES == 0 for count in difference.values()), f"the lookups differ: {difference}"
        counts[kind] = Counter({name: count // TIMES for name, count in difference.items()})
    return counts

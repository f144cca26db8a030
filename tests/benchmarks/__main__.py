"""Measure what a lookup costs, and compare it with alternatives in the same run: ``make bench``.

Each measurement alternates with its alternative and is reported as a median, because machines are noisy. Every run goes
to ``.benchmarks/run.json``. ``--record`` also shows it in ``docs/performance.md``; ``--render`` measures nothing and
writes that page again from the recorded run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.page import details, draw, render

PROJECT = Path(__file__).parents[2]
LATEST = PROJECT / ".benchmarks" / "run.json"
RECORDED = PROJECT / "docs" / "performance" / "run.json"
PAGE = PROJECT / "docs" / "performance.md"
GROUPS = ("in_airflow", "new_process", "in_process", "one_host", "fleet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)} (all)")
    parser.add_argument("--record", action="store_true", help="show the run in docs/performance.md")
    parser.add_argument("--render", action="store_true", help="write docs/performance.md from the recorded run")
    options = parser.parse_args()
    if options.groups and (options.record or options.render):
        parser.error("docs/performance.md shows a run of all groups")
    if not options.render:
        # With this variable, every new process compiles what it imports and seems to be many times as slow.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        LATEST.parent.mkdir(exist_ok=True)
        LATEST.write_text(json.dumps(measure(options.groups or GROUPS), indent=1))
    if options.record:
        RECORDED.write_text(json.dumps(json.loads(LATEST.read_text())) + "\n")
    if options.record or options.render:
        run = json.loads(RECORDED.read_text())
        draw(run, RECORDED.parent)
        PAGE.write_text(render(PAGE.read_text(), run))


def measure(groups: tuple[str, ...]) -> dict[str, Any]:
    """Run the benchmarks of the groups, and print the rows of each."""
    began = time.monotonic()
    run: dict[str, Any] = {"environment": environment(), "rows": [], "samples": {}}
    for group in groups:
        rows, samples = import_module(f"tests.benchmarks.{group}").measure()
        measured = [asdict(row) for row in rows]
        sys.stdout.write(details(measured))
        sys.stdout.flush()
        run["rows"] += measured
        run["samples"] |= samples
    run["environment"]["seconds"] = round(time.monotonic() - began)
    return run


def environment() -> dict[str, Any]:
    """Return the machine, the commit and the versions of a run."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(commit, cwd=PROJECT, capture_output=True, text=True, check=False).stdout.strip(),
        "python": platform.python_version(),
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in ("apache-airflow", "boto3")},
    }


if __name__ == "__main__":
    main()

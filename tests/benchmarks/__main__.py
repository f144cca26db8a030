"""What a lookup costs, against what else there is, in one run: ``make bench``.

All is measured in turn with its peer and told as medians and ratios, because machines are noisy. A run is compared with
the recorded one, and goes to ``.benchmarks/run.json``; ``--record`` makes it the recorded one, whose table and plots
`docs/performance.md` shows.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks.results import Findings, Row

PROJECT = Path(__file__).parents[2]
LATEST = PROJECT / ".benchmarks" / "run.json"
RECORDED = PROJECT / "docs" / "performance" / "run.json"
PAGE = PROJECT / "docs" / "performance.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)
GROUPS = ("in_process", "new_process", "in_airflow", "one_host", "fleet", "counts")
PACKAGES = ("apache-airflow", "boto3", "botocore")


def main() -> int:
    options = read_options()
    # Where this is set, every new process compiles what it imports, and seems to be many times as slow.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"rows": []}
    began = time.monotonic()
    run: dict[str, Any] = {"environment": environment(), "rows": [], "figures": {}}
    for group in options.groups:
        findings: Findings = import_module(f"tests.benchmarks.{group}").measure()
        for row in findings.rows:
            print_row(row, recorded["rows"])
        run["rows"] += [as_json(row) for row in findings.rows]
        run["figures"][group] = findings.figures
    run["environment"]["load average at the end"] = load()
    run["environment"]["seconds"] = round(time.monotonic() - began)
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(run, indent=1))
    say(f"\n{run['environment']}\n")
    if options.record:
        record(run)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)} (all)")
    parser.add_argument("--record", action="store_true", help="make the run the recorded one")
    options = parser.parse_args()
    if unknown := [group for group in options.groups if group not in GROUPS]:
        parser.error(f"no such group: {', '.join(unknown)}")
    if options.record and options.groups:
        parser.error("a run that is recorded is a whole one")
    options.groups = options.groups or GROUPS
    return options


def record(run: dict[str, Any]) -> None:
    """Make a run the recorded one, with its plots and its table in the documentation."""
    from tests.benchmarks.plots import draw  # noqa: PLC0415 - needed here alone, and takes a second

    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(json.dumps(run) + "\n")
    draw(run, RECORDED.parent)
    PAGE.write_text(TABLE.sub(lambda _: f"\n{table(run)}\n", PAGE.read_text()))


def environment() -> dict[str, Any]:
    """Tell where and of what a run is."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(commit, cwd=PROJECT, capture_output=True, text=True, check=False).stdout.strip(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "load average": load(),
        **{name: version(name) for name in PACKAGES},
    }


def load() -> list[float]:
    return [round(load, 2) for load in os.getloadavg()]


def as_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "verdict": row.verdict}


def print_row(row: Row, recorded: list[dict[str, Any]]) -> None:
    say(f"{row.verdict:7}{row.what}: {row.ours}", f"       {row.against}: {row.theirs}", sep="\n")
    same = (known["goals"] for known in recorded if (known["what"], known["against"]) == (row.what, row.against))
    was = {goal["what"]: f" (recorded: {goal['found']:.3g})" for goals in same for goal in goals}
    for goal in row.goals:
        say(f"       {goal.what}: {goal.found:.3g}{was.get(goal.what, '')}, at most {goal.most:.3g}")


def table(run: dict[str, Any]) -> str:
    """Write a run's rows as Markdown."""
    lines = [
        "| what | found | against, in the same run | found | figure, and the goal | |",
        "|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        goals = "<br>".join(f"{goal['what']} {goal['found']:.3g}, at most {goal['most']:.3g}" for goal in row["goals"])
        lines.append(
            f"| {row['what']} | {row['ours']} | {row['against']} | {row['theirs']} | {goals} | {row['verdict']} |"
        )
    told = ", ".join(f"{name} {value}" for name, value in run["environment"].items())
    return "\n".join([*lines, "", f"Taken with: {told}.", ""])


def say(*lines: str, sep: str = " ") -> None:
    sys.stdout.write(sep.join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

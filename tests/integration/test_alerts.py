"""Prometheus's own tool reads the alert rules and the dashboard's queries, and walks the rules through time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.process_helpers import PROJECT
from tests.requirements import give_up

MONITORING = PROJECT / "examples/monitoring"


def promtool(*arguments: str | Path) -> str:
    """Run it, and give what it says; it must be content."""
    try:
        run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=50)
    except FileNotFoundError:
        give_up("Debian's package prometheus, which has promtool, is missing")
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_each_alert_fires_when_it_is_to_and_else_not() -> None:
    """From the first failure ever to a fleet that is well: see alerts.yaml."""
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts.yaml"))


def test_prometheus_takes_the_alert_rules() -> None:
    """Their form, queries and templates."""
    assert "5 rules found" in promtool("check", "rules", MONITORING / "rules.yaml")


def test_prometheus_takes_the_dashboards_queries(tmp_path: Path) -> None:
    """Each as a rule, with what Grafana puts in place of its variables."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    filled = [query.replace("$__rate_interval", "5m").replace("$conn_id", ".*") for query in queries]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(filled)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(queries)} rules found" in promtool("check", "rules", file)

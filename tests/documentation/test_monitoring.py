"""
The mapping, the alert rules and the dashboard of examples/monitoring use the metrics' names.

Prometheus's promtool and Grafana's models read the files. No test runs Prometheus or Grafana.
"""

from __future__ import annotations

import json
import re
import subprocess
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend.cache import Source
from tests.documentation.pages import METRICS, PROJECT
from tests.requirements import need_programs

FOLDER = PROJECT / "examples/monitoring"
MAPPINGS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "statsd_mapping.yaml").read_text())["mappings"]
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
DATASOURCE, CONN_ID = DASHBOARD["templating"]["list"]
RESULTS = {*get_args(Source), "error"}

#: Grafana writes this field of a variable, but its models do not have it.
NOT_MODELLED = {".templating.list.1.definition"}
NAME = re.compile(r"airflow_ecr_secrets_backend_\w+")
RESULT = re.compile(r"result=~?[\"']([^\"']*)[\"']")
ENDINGS = {"counter": "_total", "gauge": "_to_expiry", "timer": "_seconds"}


def mappings_of(name: str) -> list[dict[str, Any]]:
    return [mapping for mapping in MAPPINGS if fnmatchcase(f"airflow.{name}", mapping["match"])]


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_mapped_by_its_type(name: str) -> None:
    """Prometheus has one name for it: a counter ends in ``_total``, a timer becomes a histogram of seconds."""
    (mapping,) = mappings_of(name)

    assert mapping["name"].endswith(ENDINGS[METRICS[name]])
    assert mapping.get("observer_type") == ("histogram" if METRICS[name] == "timer" else None)
    assert mapping.get("labels") == ({"result": "$1"} if ".lookups." in name else None)


def test_each_mapping_matches_a_metric() -> None:
    """The mapping has no outdated names."""
    assert {each["match"] for each in MAPPINGS} == {each["match"] for name in METRICS for each in mappings_of(name)}


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES), CONN_ID["definition"]])
def test_each_query_uses_mapped_names(query: str) -> None:
    """A query also uses only results that lookups have."""
    names = {each["name"] for each in MAPPINGS if "observer_type" not in each}
    histograms = {each["name"] + part for each in MAPPINGS for part in ("_bucket", "_count", "_sum")}
    results = {result for found in RESULT.findall(query) for result in found.split("|")}

    assert NAME.search(query)
    assert {*NAME.findall(query)} <= names | histograms
    assert results <= RESULTS


def test_the_dashboard_shows_each_metric() -> None:
    """Users see all metrics without writing queries."""
    shown = {name.removesuffix("_bucket") for query in QUERIES for name in NAME.findall(query)}

    assert shown == {mapping["name"] for mapping in MAPPINGS}


def test_the_dashboard_works_with_any_prometheus_and_without_tags() -> None:
    """The user selects the data source. Series without the label ``conn_id`` match the value "All" of the variable."""
    used = {value for path, value in leaves(DASHBOARD).items() if path.endswith(".datasource.uid")}

    assert (DATASOURCE["name"], DATASOURCE["type"], DATASOURCE["query"]) == ("datasource", "datasource", "prometheus")
    assert used == {"${datasource}"}
    assert (CONN_ID["name"], CONN_ID["includeAll"]) == ("conn_id", True)
    assert re.fullmatch(CONN_ID["allValue"], "") is not None
    assert [query for query in QUERIES if 'conn_id=~"$conn_id"' not in query] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_severity_and_a_fix(rule: dict[str, Any]) -> None:
    """The alert shows how urgent it is and what to do. The page lists it."""
    assert rule["annotations"].keys() == {"summary", "fix"}
    assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in (PROJECT / "docs/metrics.md").read_text()


def promtool(*arguments: str | Path) -> None:
    need_programs("promtool")
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=50)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_fires_only_in_its_situation() -> None:
    """alerts.yaml has the situations, from a first failure to a fleet without failures."""
    promtool("test", "rules", Path(__file__).with_name("alerts.yaml"))


def test_prometheus_accepts_all_queries(tmp_path: Path) -> None:
    """It also accepts the rules' templates. The dashboard's queries have values for Grafana's variables."""
    filled = [query.replace("$__rate_interval", "5m").replace("$conn_id", ".*") for query in QUERIES]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(filled)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "rules", FOLDER / "rules.yaml", file)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a document by their paths."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Any] = {path: type(value)()}
    for key, inner in items:
        found |= leaves(inner, f"{path}.{key}")
    return found


def test_grafana_knows_each_field_of_the_dashboard() -> None:
    """Grafana's models drop unknown fields when they read and write the file."""
    if find_spec("grafana_foundation_sdk") is None:
        pytest.skip("Grafana's models need Python 3.11")
    import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    encoder = import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder()
    models = import_module("grafana_foundation_sdk.models.dashboard")
    known = leaves(json.loads(encoder.encode(models.Dashboard.from_json(DASHBOARD))))

    assert {path for path, value in leaves(DASHBOARD).items() if known.get(path, known) != value} == NOT_MODELLED

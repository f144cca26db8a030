"""
The mapping, the alert rules and the dashboard of examples/monitoring use the metrics' names.

Prometheus's promtool and Grafana's models read the files. No test runs Prometheus or Grafana.
"""

from __future__ import annotations

import json
import re
import subprocess
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend.cache import Source
from tests.documentation.pages import PROJECT
from tests.metrics_page import METRICS, PAGE
from tests.requirements import skip_or_fail

FOLDER = PROJECT / "examples/monitoring"
MAPPINGS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "statsd_mapping.yaml").read_text())["mappings"]
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RESULTS = {*get_args(Source), "error"}

#: Grafana writes this field of a variable, but its models do not have it.
NOT_MODELLED = {".templating.list.1.definition"}
NAME = re.compile(r"airflow_ecr_secrets_backend_\w+")
RESULT = re.compile(r"result=~?[\"']([^\"']*)[\"']")


def mapped(name: str) -> list[tuple[str, dict[str, str]]]:
    """Return the names for Prometheus and the labels that the mappings result in, as statsd_exporter applies them."""
    found = []
    for mapping in MAPPINGS:
        pattern = re.escape(mapping["match"]).replace(r"\*", r"([^.]+)")
        if match := re.fullmatch(pattern, f"airflow.{name}"):
            parts = {f"${number}": part for number, part in enumerate(match.groups(), 1)}
            found.append((mapping["name"], {label: parts[value] for label, value in mapping.get("labels", {}).items()}))
    return found


def prometheus_names() -> set[str]:
    """Return the names in Prometheus, including the parts of histograms."""
    names = set()
    for mapping in MAPPINGS:
        is_histogram = mapping.get("observer_type") == "histogram"
        names |= {mapping["name"] + part for part in (("_bucket", "_sum", "_count") if is_histogram else ("",))}
    return names


def queries() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_mapped_by_its_type(name: str) -> None:
    """Prometheus has one name for it: a counter ends in ``_total``, a timer becomes a histogram of seconds."""
    ((prometheus_name, labels),) = mapped(name)
    (mapping,) = (mapping for mapping in MAPPINGS if mapping["name"] == prometheus_name)
    is_timer = METRICS[name].type == "timer"

    assert prometheus_name.endswith("_total") is (METRICS[name].type == "counter")
    assert (mapping.get("observer_type") == "histogram") is is_timer
    assert prometheus_name.endswith("_seconds") is is_timer
    assert labels == ({"result": name.rpartition(".")[2]} if ".lookups." in name else {})


def test_each_mapping_matches_a_metric() -> None:
    """The mapping has no outdated names."""
    assert {mapping["name"] for mapping in MAPPINGS} == {known for name in METRICS for known, _ in mapped(name)}


@pytest.mark.parametrize(
    "text",
    [*queries(), *(rule["expr"] for rule in RULES), *(v["definition"] for v in DASHBOARD["templating"]["list"][1:])],
)
def test_each_query_uses_mapped_names(text: str) -> None:
    """A query also uses only results that lookups have."""
    results = {result for found in RESULT.findall(text) for result in found.split("|")}

    assert {*NAME.findall(text)} <= prometheus_names()
    assert NAME.search(text)
    assert results <= RESULTS


def test_the_dashboard_shows_each_metric() -> None:
    """Users see all metrics without writing queries."""
    shown = {name.removesuffix("_bucket") for query in queries() for name in NAME.findall(query)}

    assert shown == {mapping["name"] for mapping in MAPPINGS}


def test_the_user_selects_the_dashboards_prometheus() -> None:
    """A variable names the data source, because each Grafana has other ones."""
    (datasource, connection) = DASHBOARD["templating"]["list"]
    used = [each["datasource"] for panel in PANELS for each in (panel, *panel["targets"])]

    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    assert [*used, connection["datasource"]] == [{"type": "prometheus", "uid": "${datasource}"}] * (len(used) + 1)


def test_the_dashboard_works_without_tags() -> None:
    """Series without the label ``conn_id`` match the value "All" of the variable."""
    connection = DASHBOARD["templating"]["list"][1]

    assert (connection["name"], connection["includeAll"]) == ("conn_id", True)
    assert re.fullmatch(connection["allValue"], "") is not None
    assert [query for query in queries() if 'conn_id=~"$conn_id"' not in query] == []


def test_the_dashboards_panels_have_their_places() -> None:
    """Grafana's grid has 24 columns, no two panels overlap, and each has an ID, a title and a description."""
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
    assert {panel["type"] for panel in PANELS} == {"stat", "timeseries"}
    assert DASHBOARD["schemaVersion"] >= 39  # Grafana 11's
    assert DASHBOARD.get("id") is None  # an ID would replace another dashboard


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_severity_and_a_fix(rule: dict[str, Any]) -> None:
    """The alert shows how urgent it is and what to do."""
    assert re.fullmatch(r"Ecr[A-Z]\w+", rule["alert"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "fix"}
    assert all(text.endswith(".") for text in rule["annotations"].values())


def test_the_page_lists_each_alert() -> None:
    """The name and the severity are those of the rule."""
    rows = re.findall(r"^\| `(Ecr\w+)` \| (\w+) \|", PAGE, re.MULTILINE)

    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


def promtool(*arguments: str | Path) -> str:
    """Run promtool, assert that it succeeds, and return its output."""
    try:
        run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=50)
    except FileNotFoundError:
        skip_or_fail("Debian's package prometheus, which has promtool, is missing")
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_each_alert_fires_only_in_its_situation() -> None:
    """alerts.yaml has the situations, from a first failure to a fleet without failures."""
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts.yaml"))


def test_prometheus_accepts_the_alert_rules() -> None:
    """It accepts their structure, queries and templates."""
    assert "5 rules found" in promtool("check", "rules", FOLDER / "rules.yaml")


def test_prometheus_accepts_the_dashboards_queries(tmp_path: Path) -> None:
    """Each query is tested as a rule, with values for Grafana's variables."""
    filled = [query.replace("$__rate_interval", "5m").replace("$conn_id", ".*") for query in queries()]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(filled)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(filled)} rules found" in promtool("check", "rules", file)


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
        skip_or_fail("Grafana's models need Python 3.11")
    import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    encoder = import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder()
    models = import_module("grafana_foundation_sdk.models.dashboard")
    known = leaves(json.loads(encoder.encode(models.Dashboard.from_json(DASHBOARD))))

    assert {path for path, value in leaves(DASHBOARD).items() if known.get(path, known) != value} == NOT_MODELLED

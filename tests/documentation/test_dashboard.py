"""Grafana's own models read the dashboard; there is no Grafana here to show it."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tests.documentation.pages import PROJECT
from tests.requirements import give_up

#: What the list of variables shows for one. Grafana writes it, and its models leave it out.
NOT_MODELLED = {".templating.list.1.definition"}


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
    """What its models read and write again is what the file has: they drop what they do not know."""
    if find_spec("grafana_foundation_sdk") is None:
        give_up("Grafana's models need Python 3.11")
    import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    encoder = import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder()
    models = import_module("grafana_foundation_sdk.models.dashboard")
    file = json.loads((PROJECT / "examples/monitoring/dashboard.json").read_text())
    known = leaves(json.loads(encoder.encode(models.Dashboard.from_json(file))))

    assert {path for path, value in leaves(file).items() if known.get(path, known) != value} == NOT_MODELLED

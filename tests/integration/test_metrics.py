"""The metrics that Airflow sends for lookups, to a listener on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from werkzeug.wrappers import Request, Response

from tests.documentation.pages import METRICS
from tests.stand_ins.aws import PROJECT, Error
from tests.stand_ins.serving import http_server, serving
from tests.stand_ins.statsd import StatsD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

PREFIX = "airflow.ecr_secrets_backend."
# Looks up one connection after another, and prints the modules that were imported for them.
PROGRAM = """
import json, os, sys
from contextlib import suppress
from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task

kwargs, *conn_ids = json.loads(sys.argv[1])
backend = EcrSecretsBackend(**kwargs)
put_into_task(backend)
loaded = {*sys.modules}
for conn_id in conn_ids:
    with suppress(ConnectionUnavailableError):
        backend.get_connection(conn_id)
if "AIRFLOW__METRICS__OTEL_ON" in os.environ:  # it is sent once a minute, and some Airflows do not send it at the end
    from opentelemetry.metrics import get_meter_provider
    get_meter_provider().force_flush()
print(json.dumps(sorted({*sys.modules} - loaded)))
"""


@pytest.fixture
def home(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Airflow's folder."""
    aws.script(Error("AccessDeniedException", "User: u is not authorized", region="eu-west-1"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    return tmp_path


def look_up(home: Path, *conn_ids: str) -> str:
    """Look up in an Airflow process of its own; return the modules that it imported meanwhile."""
    regions = {"docker_default": "us-east-1", "docker_denied": "eu-west-1"}
    hosts = {conn_id: f"123456789012.dkr.ecr.{region}.amazonaws.com" for conn_id, region in regions.items()}
    order = json.dumps([{"connections": hosts, "cache_dir": str(home / "cache")}, *conn_ids])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, order]
    return subprocess.check_output(command, text=True, cwd=PROJECT).splitlines()[-1]


def test_statsd_receives_the_metrics_of_each_lookup(home: Path) -> None:
    """
    None for a connection that is not mapped; for each, the connection and the region are tags.

    Names and numbers alone, so no token, and no value with many forms. The dialect is that of InfluxDB.
    """
    with StatsD.running() as statsd:
        options = [f"{name[18:].lower()} = {value}\n" for name, value in statsd.environment().items()]
        (home / "airflow.cfg").write_text(f"[metrics]\nstatsd_influxdb_enabled = True\n{''.join(options)}")
        look_up(home, "docker_default", "docker_default", "not_mapped", "docker_denied")
        lines = [re.split("[,:|]", line.removeprefix(PREFIX)) for line in statsd.lines(PREFIX)]

    served, denied = (["conn_id=docker_default", "region=us-east-1"], ["conn_id=docker_denied", "region=eu-west-1"])
    assert [line for line in lines if line[-1] == "c"] == [
        ["lookups.mint", *served, "1", "c"],
        ["lookups.process_hit", *served, "1", "c"],
        ["lookups.error", *denied, "1", "c"],
        ["back_offs", *denied, "1", "c"],
    ]
    (first, other), seconds = (
        [float(line[-2]) for line in lines if line[0] == name] for name in ("mint_duration", "seconds_to_expiry")
    )
    assert 1 < first < 20_000  # milliseconds
    assert 1 < other < 20_000
    assert [round(left, -2) for left in seconds] == [43_200, 43_200]
    assert {f"ecr_secrets_backend.{line[0]}" for line in lines} <= METRICS.keys()
    assert {len(line) for line in lines} == {5}


def test_opentelemetry_receives_the_same_with_tags(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[bytes] = []

    def collect(request: Request) -> Response:
        exported.append(request.get_data())
        return Response()

    with serving(http_server(collect)) as port:
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_HOST", "127.0.0.1")
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_PORT", str(port))
        look_up(home, "docker_default")

    names = [f"{PREFIX}{name}".encode() for name in ("lookups.mint", "mint_duration", "seconds_to_expiry")]
    assert [name for name in (*names, b"docker_default") if name not in b"".join(exported)] == []


def test_if_metrics_are_off_nothing_is_sent_or_imported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup imports neither Airflow's Stats nor a client."""
    with StatsD.running() as statsd:
        for name, value in statsd.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "False")
        imported = look_up(home, "docker_default", "docker_default")

        assert statsd.lines("airflow.") == []
    assert "boto3" in imported
    assert not re.search(r"stats|metrics|observability|opentelemetry", imported)

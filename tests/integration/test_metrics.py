"""The metrics that Airflow sends for lookups, to a listener on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from tests.metrics_page import METRICS
from tests.stand_ins.aws import PROJECT, AwsStandIn, Error
from tests.stand_ins.serving import serving
from tests.stand_ins.statsd import StatsD

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "airflow.ecr_secrets_backend."
# Looks up one connection after another: "here" in this process, "another" as another process of the host, "late" when
# the token's renewal is due. Prints which lookups were served, and the modules that were imported for them.
PROGRAM = """
import json, os, sys
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from freezegun import freeze_time
from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import _memory
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task

backend = EcrSecretsBackend(**json.loads(sys.argv[1]))
put_into_task(backend)
loaded, served = {*sys.modules}, []
for lookup in sys.argv[2:]:
    how, conn_id = lookup.split(":")
    if how == "another":
        _memory._entries.clear()
    try:
        with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)) if how == "late" else nullcontext():
            served.append(bool(backend.get_connection(conn_id).password))
    except ConnectionUnavailableError:
        served.append(False)
backend.get_connection("not_mapped")
if "AIRFLOW__METRICS__OTEL_ON" in os.environ:  # it is sent once a minute, and some Airflows do not send it at the end
    from opentelemetry.metrics import get_meter_provider
    get_meter_provider().force_flush()
print(json.dumps([served, sorted({*sys.modules} - loaded)]))
"""


def look_up(folder: Path, *lookups: str, **environment: str) -> tuple[list[bool], list[str]]:
    """Look up in an Airflow process of its own; return which lookups were served, and the imported modules."""
    regions = {"docker_default": "us-east-1", "docker_denied": "eu-west-1"}
    hosts = {conn_id: f"123456789012.dkr.ecr.{region}.amazonaws.com" for conn_id, region in regions.items()}
    kwargs = json.dumps({"connections": hosts, "cache_dir": str(folder / "cache")})
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, kwargs, *lookups]
    variables = {**os.environ, "AIRFLOW_HOME": str(folder), "PYTHONPATH": str(PROJECT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=50)
    served, imported = json.loads(done.stdout.splitlines()[-1])
    return served, imported


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that StatsD receives from a process with all kinds of hits, and from one that AWS then refuses."""
    folder = tmp_path_factory.mktemp("airflow")
    with StatsD.running() as statsd, AwsStandIn.running() as aws:
        environment = {**aws.environment(), **statsd.environment()}
        hits = look_up(folder, "here:docker_default", "here:docker_default", "another:docker_default", **environment)
        aws.script(Error("AccessDeniedException", "User: u is not authorized"))
        faults = look_up(folder, "late:docker_default", "here:docker_denied", "here:docker_denied", **environment)
        assert (hits[0], faults[0]) == ([True] * 3, [True, False, False])
        return [line.removeprefix(PREFIX) for line in statsd.lines(PREFIX)]


def test_statsd_receives_one_result_for_each_lookup(lines: list[str]) -> None:
    """None for a connection that is not mapped; a back-off for each failed request."""
    assert [line.removesuffix(":1|c") for line in lines if line.endswith("|c")] == [
        "lookups.mint",
        "lookups.process_hit",
        "lookups.host_hit",
        "lookups.stale",
        "back_offs",
        "lookups.error",
        "back_offs",
        "lookups.error",
    ]


def test_statsd_receives_the_duration_of_each_request_and_the_time_to_expiry(lines: list[str]) -> None:
    """Milliseconds of three requests; seconds of each token that was served."""
    values = {
        name: re.findall(rf"^{name}_\w+:([\d.]+)\|", "\n".join(lines), re.MULTILINE) for name in ("mint", "seconds")
    }

    assert [1 < float(duration) < 20_000 for duration in values["mint"]] == [True] * 3
    assert [round(float(seconds), -2) for seconds in values["seconds"]] == [43_200, 43_200, 43_200, 1_800]


def test_the_metrics_of_the_page_are_sent_and_no_others(lines: list[str]) -> None:
    """Names and numbers alone, so no token, and no value with many forms."""
    names = {PREFIX.removeprefix("airflow.") + line.split(":")[0] for line in lines}

    assert names == METRICS.keys()
    assert [line for line in lines if not re.fullmatch(r"[a-z_.]+:\d+(\.\d+)?\|(c|g|ms)", line)] == []


@pytest.mark.usefixtures("aws")
def test_a_statsd_with_tags_receives_the_connection_and_the_region(tmp_path: Path) -> None:
    """Here with the dialect of InfluxDB, configured in Airflow's file."""
    with StatsD.running() as statsd:
        options = {name.removeprefix("AIRFLOW__METRICS__"): value for name, value in statsd.environment().items()}
        configuration = [f"{name.lower()} = {value}" for name, value in options.items()]
        (tmp_path / "airflow.cfg").write_text(
            "\n".join(["[metrics]", "statsd_influxdb_enabled = True", *configuration])
        )
        look_up(tmp_path, "here:docker_default")
        lines = statsd.lines(PREFIX)

    assert len(lines) == 3
    assert [line for line in lines if ",conn_id=docker_default,region=us-east-1:" not in line] == []


@pytest.mark.usefixtures("aws")
def test_opentelemetry_receives_the_same_with_tags(tmp_path: Path) -> None:
    exported: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            exported.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Collector) as port:
        otel = {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "AIRFLOW__METRICS__OTEL_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__OTEL_PORT": str(port),
        }
        look_up(tmp_path, "here:docker_default", **otel)

    names = [f"{PREFIX}{name}".encode() for name in ("lookups.mint", "mint_duration", "seconds_to_expiry")]
    assert [name for name in (*names, b"docker_default") if name not in b"".join(exported)] == []


@pytest.mark.usefixtures("aws")
def test_if_metrics_are_off_nothing_is_sent_or_imported(tmp_path: Path) -> None:
    """A lookup imports neither Airflow's Stats nor a client."""
    with StatsD.running() as statsd:
        environment = {**statsd.environment(), "AIRFLOW__METRICS__STATSD_ON": "False"}
        served, imported = look_up(tmp_path, "here:docker_default", "here:docker_default", **environment)

        assert served == [True, True]
        assert statsd.lines("airflow.") == []
    assert [name for name in imported if re.search(r"stats|metrics|observability|opentelemetry", name)] == []

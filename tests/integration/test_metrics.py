"""What Airflow's own metrics are told, by an Airflow that sends them to a listener on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.metrics_page import METRICS
from tests.process_helpers import PROJECT
from tests.stand_ins.aws import AwsStandIn, Error
from tests.stand_ins.statsd import StatsD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "airflow.ecr_secrets_backend."
# Looks up one connection after another, each in a way: as this process does, as another process of the host would, or
# when the token is due for renewal. At last it tells what was served, and which modules were imported for that.
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
if "AIRFLOW__METRICS__OTEL_ON" in os.environ:  # else it is sent once a minute, by some Airflows not at the end either
    from opentelemetry.metrics import get_meter_provider
    get_meter_provider().force_flush()
print(json.dumps([served, sorted({*sys.modules} - loaded)]))
"""


@pytest.fixture(scope="module")
def statsd() -> Iterator[StatsD]:
    with StatsD.running() as statsd:
        yield statsd


def kwargs_for(folder: Path) -> dict[str, object]:
    regions = {"docker_default": "us-east-1", "docker_denied": "eu-west-1"}
    hosts = {conn_id: f"123456789012.dkr.ecr.{region}.amazonaws.com" for conn_id, region in regions.items()}
    return {"connections": hosts, "cache_dir": str(folder / "cache")}


def look_up(folder: Path, *lookups: str, **environment: str) -> tuple[list[bool], list[str]]:
    """Look up in an Airflow process of its own.

    :return: which lookups were served, and the modules that were imported for them
    """
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(kwargs_for(folder)), *lookups]
    variables = {**os.environ, "AIRFLOW_HOME": str(folder), "PYTHONPATH": str(PROJECT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=50)
    served, imported = json.loads(done.stdout.splitlines()[-1])
    return served, imported


@pytest.fixture(scope="module")
def lines(statsd: StatsD, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What StatsD is told when a process is served in all ways, and of another one when AWS has come to refuse."""
    folder = tmp_path_factory.mktemp("airflow")
    with AwsStandIn.running() as aws:
        environment = {**aws.environment(), **statsd.environment()}
        hits = look_up(folder, "here:docker_default", "here:docker_default", "another:docker_default", **environment)
        aws.script(Error("AccessDeniedException", "User: u is not authorized"))
        faults = look_up(folder, "late:docker_default", "here:docker_denied", "here:docker_denied", **environment)
    assert (hits[0], faults[0]) == ([True] * 3, [True, False, False])
    return [line.removeprefix(PREFIX) for line in statsd.lines(PREFIX)]


def test_statsd_is_told_what_became_of_each_lookup(lines: list[str]) -> None:
    """One result each, and none of a connection that is not mapped; a back-off whenever AWS was asked in vain."""
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


def test_statsd_is_told_how_long_aws_was_asked(lines: list[str]) -> None:
    """In milliseconds: a mint, a renewal that failed, and a mint that failed."""
    durations = [re.fullmatch(r"mint_duration:([\d.]+)\|ms", line) for line in lines if line.startswith("mint_d")]

    assert [1 < float(duration[1]) < 20_000 for duration in durations if duration] == [True] * 3


def test_statsd_is_told_what_is_left_of_the_token(lines: list[str]) -> None:
    """In seconds, with each lookup that is served one."""
    left = [float(line.split(":")[1].removesuffix("|g")) for line in lines if line.startswith("seconds_to_expiry:")]

    assert [round(seconds, -2) for seconds in left] == [43_200, 43_200, 43_200, 1_800]


def test_every_metric_is_sent(lines: list[str]) -> None:
    """Each one of the table, and no other, so that nobody watches what does not come."""
    names = {PREFIX.removeprefix("airflow.") + line.split(":")[0] for line in lines}

    assert names == METRICS.keys()


def test_nothing_but_names_and_numbers_is_sent(lines: list[str]) -> None:
    """So no token, and nothing else that is long or of many values."""
    assert [line for line in lines if not re.fullmatch(r"[a-z_.]+:\d+(\.\d+)?\|(c|g|ms)", line)] == []


@pytest.mark.usefixtures("aws")
def test_tags_tell_the_connection_and_the_region_where_there_are_tags(tmp_path: Path) -> None:
    """As with the dialect of InfluxDB, here by Airflow's file instead of the environment."""
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


class Collector(BaseHTTPRequestHandler):
    """Takes what OpenTelemetry exports over HTTP."""

    taken: list[bytes]

    def do_POST(self) -> None:
        self.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.mark.usefixtures("aws")
def test_opentelemetry_is_told_the_same(tmp_path: Path) -> None:
    """With tags."""
    Collector.taken = []
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        otel = {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "AIRFLOW__METRICS__OTEL_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__OTEL_PORT": str(server.server_port),
        }
        look_up(tmp_path, "here:docker_default", **otel)
        server.shutdown()
        thread.join()
    taken = b"".join(Collector.taken)

    for name in ("lookups.mint", "mint_duration", "seconds_to_expiry"):
        assert (PREFIX + name).encode() in taken
    assert b"docker_default" in taken


@pytest.mark.usefixtures("aws")
def test_where_metrics_are_off_nothing_is_sent_nor_imported(tmp_path: Path) -> None:
    """Though Airflow knows where to: neither its own Stats nor a client is loaded for a lookup."""
    with StatsD.running() as statsd:
        environment = {**statsd.environment(), "AIRFLOW__METRICS__STATSD_ON": "False"}
        served, imported = look_up(tmp_path, "here:docker_default", "here:docker_default", **environment)

        assert served == [True, True]
        assert statsd.lines("airflow.") == []
    assert [name for name in imported if re.search(r"stats|metrics|observability|opentelemetry", name)] == []

"""DAG files that look up connections while a DAG processor reads them, with Airflow's own cache on."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from shutil import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY
from tests.deployments.conftest import DAGS, REGIONS, backend_settings

if TYPE_CHECKING:
    from pathlib import Path

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn

TOKEN_LIFETIME_SECONDS = 15.0
KEPT_SECONDS = 1  # less than a tenth of the lifetime, which is the margin of such a short token
#: The process that serves the lookup: the one that reads the file, or the DAG processor with its own API.
WORKERS = {
    "reader": {},
    "manager": {
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
    },
}


@pytest.mark.timeout(180)
def test_airflow_s_own_cache_returns_no_expired_token(world: World, cloud: AwsStandIn, database: Path) -> None:
    """With ``[secrets] use_cache`` on, a DAG file that is read every second always has a valid token.

    The token is requested with an AWS connection, which is looked up while the file is read.
    """
    world.inside(lambda: cloud.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    with ExitStack() as stack:
        sites = []
        for name, workers in WORKERS.items():
            settings = {
                **cloud.environment(),
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "1",
                "AIRFLOW__SECRETS__USE_CACHE": "True",
                "AIRFLOW__SECRETS__CACHE_TTL_SECONDS": str(KEPT_SECONDS),
                "STAND_IN_URL": cloud.url,
                # No early renewal, so that only the margin protects the file from an expired token.
                **backend_settings(world, name, by_airflow="docker_parsing", refresh_before=0),
                **workers,
            }
            sites.append(stack.enter_context(world.airflow(name, DAGS / "parsing", settings)))
        for site in sites:
            copy(database, site.home)
            site.start("dag-processor")
        for site in sites:
            site.wait(partial(has_rotated, site))
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_parsing"]))

    for site in sites:
        assert [reading for reading in readings(site) if not reading["is_valid"]] == []
    assert {call.access_key_id for call in calls} == {AIRFLOWS_KEY}
    assert len(calls) < sum(len(readings(site)) for site in sites) / 2


def has_rotated(site: AirflowSite) -> bool:
    """Return whether the file was read often, and with more than two tokens."""
    read = readings(site)
    return len(read) > 10 and len({reading["token"] for reading in read}) > 2


def readings(site: AirflowSite) -> list[dict[str, Any]]:
    record = site.home / "parsed.jsonl"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

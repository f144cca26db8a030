"""The rows of the page, for any configuration and any cache."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli.configuration import BACKEND
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.ui import overview
from ecr_secrets_backend.ui.overview import Overview
from tests.command_settings import EU_HOST, US_HOST
from tests.documentation.pages import PROJECT
from tests.unit.builders import HOUR, build_failure, build_token
from tests.unit.folders import folder_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Read = Callable[..., Overview]

FALLBACK = {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Configure the backend in the sections that have kwargs, and read the configuration."""
    session = SimpleNamespace(scalars=lambda _: ["docker_default"])
    monkeypatch.setattr("airflow.utils.session.create_session", lambda: nullcontext(session))

    def read(kwargs: dict[str, Any] | None, workers: dict[str, Any] | None = None) -> Overview:
        for option, values in (("SECRETS__BACKEND", kwargs), ("WORKERS__SECRETS_BACKEND", workers)):
            if values is not None:
                monkeypatch.setenv(f"AIRFLOW__{option}", BACKEND)
                monkeypatch.setenv(f"AIRFLOW__{option}_KWARGS", json.dumps(values))
        return Overview.read()

    return read


def record(shown: Overview, entry: Entry) -> None:
    config = shown.configurations["secrets"]
    mapped = next(iter(config.settings.connections.values()))
    key = mapped.identity.in_environment(os.environ).key
    entry = Entry.of_token(key, "", entry.token) if entry.token and not entry.failure else entry
    assert config.logins.store is not None
    content = json.dumps({**json.loads(entry.to_json()), "key": key}).encode()
    config.logins.store.write(f"{key}.json", content, entry.now() + 24 * HOUR)


@pytest.mark.parametrize(
    ("age", "state"),
    [(0, "valid"), (10 * HOUR, "valid"), (11.2 * HOUR, "renewal_due"), (11.9 * HOUR, "none"), (13 * HOUR, "none")],
)
def test_a_token_has_a_state_at_each_age(read: Read, kwargs: dict[str, Any], age: float, state: str) -> None:
    shown = read(kwargs)
    with freeze_time() as clock:
        record(shown, Entry("", token=build_token(received_at=time.time(), password="ey.secret")))
        clock.tick(age)
        (row,) = shown.rows()

    assert (row["state"], row["seconds_left"]) == (state, max(0, 12 * HOUR - age))
    assert "ey.secret" not in json.dumps(row)


def test_a_failure_has_its_fix_and_its_back_off(read: Read, kwargs: dict[str, Any]) -> None:
    """Also if a token is still valid. ``docs/ui.md`` documents all fields and all states."""
    shown = read(kwargs)
    record(shown, Entry("").with_failure(build_failure()))
    (failed,) = shown.rows()
    record(shown, Entry("", token=build_token(received_at=time.time() - 11.5 * HOUR)).with_failure(build_failure()))
    (due,) = shown.rows()

    assert (failed["state"], due["state"]) == ("failed", "renewal_due")
    for row in (failed, due):
        assert row["failure"].items() >= {"code": "AccessDeniedException", "remedy": "Allow it."}.items()
        assert 0 < row["back_off_seconds"] <= 5
    page = (PROJECT / "docs/ui.md").read_text()
    (example,) = re.findall(r"(?ms)^```json\n(.*?)^```", page)
    (documented,) = json.loads(example)["connections"]
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [*overview.STATES]
    assert [*documented] == [*failed]
    assert [*documented["failure"]] == [*failed["failure"]]


@pytest.mark.parametrize(
    ("workers", "added"),
    [
        ({"docker_default": US_HOST}, []),
        ({"docker_default": US_HOST, "docker_worker": EU_HOST}, [("docker_worker", "workers", "eu-central-1")]),
        ({"docker_default": EU_HOST}, [("docker_default", "workers", "eu-central-1")]),
    ],
)
def test_connections_of_workers_are_shown_if_they_differ(
    read: Read, kwargs: dict[str, Any], workers: dict[str, str], added: list[tuple[str, str, str]]
) -> None:
    rows = read(kwargs, {**kwargs, "connections": workers}).rows()

    shown = [(row["conn_id"], row["section"], row["region"]) for row in rows]
    assert shown == [("docker_default", "secrets", "us-east-1"), *added]


def test_a_wrong_configuration_of_workers_is_a_problem(read: Read, kwargs: dict[str, Any]) -> None:
    """With a wrong configuration of ``[secrets]``, Airflow does not start."""
    shown = read(kwargs, {"connections": {"docker_default": {"regoin_name": "x"}}})
    wrong = "[workers] secrets_backend_kwargs: connections.docker_default.regoin_name is not supported"

    (problem,) = shown.problems
    assert problem.startswith(wrong)
    assert [row["conn_id"] for row in shown.rows()] == ["docker_default"]


@pytest.mark.parametrize("backend", [None, FALLBACK["backend"]])
def test_secrets_without_this_backend_are_a_problem(
    read: Read, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], backend: str | None
) -> None:
    if backend:
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    shown = read(None, kwargs)

    (problem,) = shown.problems
    assert f"[secrets] backend is {backend or 'not set'}" in problem
    assert "Set [secrets] backend = ecr_secrets_backend.EcrSecretsBackend" in problem
    assert [row["section"] for row in shown.rows()] == ["workers"]
    assert shown.other_backends[0] == "environment variables"


def test_fallback_backends_are_not_asked(read: Read, kwargs: dict[str, Any]) -> None:
    """They may be on the network, so the identity of the AWS connection is unknown."""
    connections = {"docker_default": {"registry": US_HOST, "aws_conn_id": "aws_ecr"}}
    shown = read({**kwargs, "connections": connections, "fallback_backends": [FALLBACK]})

    assert [row["state"] for row in shown.rows()] == ["unknown"]
    assert shown.other_backends == (FALLBACK["backend"], "environment variables", "the metadata database")


def test_an_aws_connection_is_read_from_airflow(
    read: Read, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    """If there is none, the row has the fix. Its keys are not shown."""
    monkeypatch.setattr("airflow.secrets.metastore.MetastoreBackend.get_connection", lambda *_, **__: None)
    kwargs["connections"] = {"docker_default": {"registry": US_HOST, "aws_conn_id": "aws_ecr"}}
    shown = read(kwargs)
    (missing,) = shown.rows()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", "aws://AKIAKEY:a-secret-key@")
    (found,) = shown.rows()

    assert (missing["state"], missing["failure"]["code"]) == ("failed", "AirflowNotFoundException")
    assert "Add an Airflow connection 'aws_ecr'" in missing["failure"]["remedy"]
    assert (found["state"], found["identity"]) == ("none", "Airflow connection aws_ecr")
    assert "a-secret-key" not in json.dumps(found)


@pytest.mark.parametrize("cache", ["host", "process"])
def test_other_definitions_of_a_connection_are_shown(
    read: Read, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path, cache: str
) -> None:
    """Processes without the backend use them. Rows are in the order of IDs. Without a token, no folder is made."""
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://elsewhere")
    rows = read({**kwargs, "cache": cache, "connections": {"docker_eu": EU_HOST, "docker_default": US_HOST}}).rows()

    assert [row["also_defined_in"] for row in rows] == [["environment", "database"], []]
    assert {row["state"] for row in rows} == {"none"}
    assert not folder_in(tmp_path).exists()

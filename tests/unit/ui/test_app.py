"""The answers of the page's app. ``tests/airflow/test_page.py`` has Airflow's own authorization, on a real server."""

from __future__ import annotations

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import pytest

from ecr_secrets_backend.cli.check.result import StepResult
from ecr_secrets_backend.cli.configuration import Configuration
from ecr_secrets_backend.settings import Settings
from ecr_secrets_backend.ui import overview
from ecr_secrets_backend.ui.overview import Overview
from tests.command_settings import EU_HOST, US_HOST

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Airflow's libraries warn of each other
    from airflow.api_fastapi.core_api.security import GetUserDep
    from starlette.testclient import TestClient

    from ecr_secrets_backend.ui import app
    from ecr_secrets_backend.ui.plugin import EcrConnectionsPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = "<script>alert(1)</script><img src=x>'\""
CONNECTIONS = {
    "docker_default": US_HOST,
    "docker_eu": EU_HOST,
    "hostile": {"profile_name": SCRIPT},
    **{f"bulk_{number:03}": f"{number:012}.dkr.ecr.us-east-2.amazonaws.com" for number in range(250)},
}
CHECK = "/api/connections/docker_default/check"
ACCEPTED, DENIED = StepResult("accepted"), StepResult("denied", "failed", "denied", "Allow it.")


@pytest.fixture
def auth_manager(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    manager = SimpleNamespace(is_authorized_connection=lambda **_: True)
    monkeypatch.setattr(app, "get_auth_manager", lambda: manager)
    return manager


@pytest.fixture
def client(
    auth_manager: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> Iterator[TestClient]:
    """A user of a server that maps connections and allows tests of them, of which each step succeeds."""
    del auth_manager
    settings = Settings.parse({**kwargs, "connections": CONNECTIONS})
    config = Configuration(settings, "[secrets] backend_kwargs", from_airflow=True)
    monkeypatch.setattr(app, "_read_overview", lambda: Overview({"secrets": config}, ("A problem.",)))
    monkeypatch.setattr(app, "connection_steps", steps(lambda: ACCEPTED))
    monkeypatch.setattr(overview, "_read_conn_ids", set)
    monkeypatch.setenv("AIRFLOW__CORE__TEST_CONNECTION", "enabled ")
    _, get_user = get_args(GetUserDep)
    for depends in (get_user, app.CAN_READ, app.CAN_TEST):
        monkeypatch.setitem(app.app.dependency_overrides, depends.dependency, lambda: None)
    with TestClient(EcrConnectionsPlugin.fastapi_apps[0]["app"], "http://airflow:8080") as client:
        yield client


def steps(first: Callable[[], StepResult]) -> Callable[..., Iterator[tuple[str, Callable[[], StepResult]]]]:
    """Return a replacement for ``connection_steps``. The last step needs a Docker engine."""
    names = ("AWS identity", "registry: login", "engine")
    return lambda *_: zip(names, (first, lambda: ACCEPTED, lambda: DENIED), strict=True)


def test_a_page_has_a_hundred_connections(client: TestClient) -> None:
    """The last page replaces one that does not exist. The JSON has all connections."""
    contents = [client.get("/", params={"page": page}).text for page in (1, 2, 99)]
    answer = client.get("/api/connections").json()

    assert [content.count('<th role="rowheader"') for content in contents] == [100, 100, 53]
    assert [len(re.findall('id="(?:previous|next)"', content)) for content in contents] == [1, 2, 1]
    assert "253 connections" in contents[0]
    assert contents[0].index("A problem.") < contents[0].index("<table")
    assert len(answer["connections"]) == 253
    assert answer["problems"] == ["A problem."]
    assert answer["other_backends"] == ["environment variables", "the metadata database"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"q": "DOCKER_"}, ["docker_default", "docker_eu"]),
        ({"q": " eu-central-1 "}, ["docker_eu"]),
        ({"q": "bulk_007", "state": "none"}, ["bulk_007"]),
        ({"q": "bulk_007", "state": "valid"}, []),
    ],
)
def test_a_filter_finds_connections(client: TestClient, query: dict[str, str], expected: list[str]) -> None:
    content = client.get("/", params=query).text
    rows = client.get("/api/connections", params=query).json()["connections"]

    assert [row["conn_id"] for row in rows] == expected
    assert re.findall(r'scope="row"><bdi>([^<]*)<', content) == expected
    assert ("No connection matches." in content) is (expected == [])


def test_a_user_sees_authorized_connections_alone(client: TestClient, auth_manager: SimpleNamespace) -> None:
    """From Airflow 3.2 on; and no button without the right to test connections."""
    assert "data-conn-id=" in client.get("/").text
    auth_manager.filter_authorized_connections = lambda **_: {"docker_eu"}
    auth_manager.is_authorized_connection = lambda **_: False

    assert "data-conn-id=" not in client.get("/").text
    assert [row["conn_id"] for row in client.get("/api/connections").json()["connections"]] == ["docker_eu"]


def test_values_are_escaped(client: TestClient) -> None:
    """No value of a configuration or a URL is markup. A nonce allows the page's own script."""
    answer = client.get("/", params={"q": SCRIPT, "state": ""})
    (nonce,) = set(re.findall(r'<(?:script|style) nonce="([^"]+)"', answer.text))

    assert f"'nonce-{nonce}'" in answer.headers["Content-Security-Policy"]
    assert (answer.text.count("<script"), answer.text.count("<img")) == (1, 0)
    assert "&lt;script&gt;alert(1)" in answer.text
    assert client.get("/", params={"q": "x", "state": SCRIPT}).text.count("<script") == 1


@pytest.mark.parametrize("path", ["/", "/api/connections", "/nothing"])
def test_a_browser_neither_stores_nor_frames_an_answer(client: TestClient, path: str) -> None:
    headers = client.get(path).headers

    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert {"default-src 'none'", "frame-ancestors 'self'"} <= {*headers["Content-Security-Policy"].split("; ")}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),  # not a browser
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        *(
            ({"Sec-Fetch-Site": site, "Origin": "http://airflow:8080"}, 403)
            for site in ("same-site", "cross-site", "none")
        ),
        ({"Origin": "http://airflow:8080"}, 200),
        ({"Origin": "http://airflow:8081"}, 403),
        ({"Origin": "https://airflow.example.com", "Host": "inside:8080"}, 200),  # behind a proxy
        ({"Origin": "https://airflow.example.com.evil.example", "Host": "inside:8080"}, 403),
        *(({"Origin": "null", "Host": host}, 403) for host in ("airflow:8080", "")),  # a sandboxed page has no origin
    ],
)
@pytest.mark.parametrize("base_url", ["https://airflow.example.com/base", ""])
def test_no_other_site_can_start_a_check(
    client: TestClient, headers: dict[str, str], expected: int, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script of a page cannot change these headers of a browser. By default, Airflow does not know its URL."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    is_known = base_url or "example.com" not in headers.get("Origin", "")

    assert client.post(CHECK, headers=headers).status_code == (expected if is_known else 403)


def test_airflow_has_to_allow_tests_of_connections(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``[core] test_connection`` there is no button, and a request is refused with the fix."""
    monkeypatch.setenv("AIRFLOW__CORE__TEST_CONNECTION", "Hidden")
    refused = client.post(CHECK)

    assert refused.status_code == 403
    assert "Set [core] test_connection = Enabled." in refused.json()["detail"]
    assert "data-conn-id=" not in client.get("/").text


@pytest.mark.parametrize(("result", "states"), [(ACCEPTED, ["good", "good"]), (DENIED, ["failed"])])
def test_a_check_ends_with_a_failure_or_the_registry_s_login(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, result: StepResult, states: list[str]
) -> None:
    """An API server has no Docker engine. Other connections are not found."""
    monkeypatch.setattr(app, "connection_steps", steps(lambda: result))
    answer = client.post(CHECK).json()

    assert [finding["state"] for finding in answer["findings"]] == states
    assert answer["ok"] is ("failed" not in states)
    for path in ("/api/connections/docker_other/check", f"{CHECK}?section=workers"):
        assert client.post(path).status_code == 404


def test_one_check_runs_at_a_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    has_started, may_end = threading.Event(), threading.Event()

    def wait() -> StepResult:
        has_started.set()
        may_end.wait(30)
        return ACCEPTED

    monkeypatch.setattr(app, "connection_steps", steps(wait))
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(client.post, CHECK)
        assert has_started.wait(30)
        second = client.post(CHECK)
        may_end.set()

    assert (first.result().status_code, second.status_code) == (200, 409)
    assert client.post(CHECK).status_code == 200


@pytest.mark.parametrize("label", ["Source", "Documentation"])
def test_the_page_links_to_the_documentation(client: TestClient, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Message()
    metadata["Project-URL"] = f"{label}, https://example.com/"
    monkeypatch.setattr(app, "metadata", lambda _: metadata)
    monkeypatch.setattr(app, "_find_documentation", app._find_documentation.__wrapped__)

    assert ('<a href="https://example.com/metrics/">' in client.get("/").text) is (label == "Documentation")

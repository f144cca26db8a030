"""Which requests the button *Check* may come from; the rest of the app is tried on a real API server."""

from __future__ import annotations

import warnings
from email.message import Message

import pytest
from starlette.requests import Request

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those that Airflow's libraries have for each other
    from ecr_secrets_backend.ui import app


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),  # no browser
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://airflow:8080", "host": "airflow:8080"}, False),
        ({"origin": "http://airflow:8080", "host": "airflow:8080"}, True),
        ({"origin": "http://airflow:8081", "host": "airflow:8080"}, False),
        ({"origin": "https://airflow.example.com", "host": "inside:8080"}, True),  # behind a proxy
        ({"origin": "https://airflow.example.com.evil.example", "host": "inside:8080"}, False),
        ({"origin": "null", "host": "airflow:8080"}, False),
        ({"origin": "null", "host": ""}, False),
    ],
)
def test_a_request_of_another_site_is_recognized(
    headers: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what every browser says of its origin, and page scripts cannot change."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/base")

    assert app._is_same_origin(request(**headers)) is expected


def test_without_a_url_of_its_own_airflow_is_no_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default; a sandboxed page has no origin, either."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")

    assert not app._is_same_origin(request(origin="null", host="airflow:8080"))


@pytest.mark.parametrize(
    ("value", "expected"), [("Enabled", True), ("enabled ", True), ("Disabled", False), ("Hidden", False)]
)
def test_checks_need_airflow_s_own_tests_of_connections(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same option, read in the same way."""
    monkeypatch.setenv("AIRFLOW__CORE__TEST_CONNECTION", value)

    assert app._allows_checks() is expected


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ((), None),
        (("Source, https://example.com",), None),
        (("Documentation, https://example.com/",), "https://example.com/"),
    ],
)
def test_the_documentation_is_where_the_package_s_metadata_say(
    urls: tuple[str, ...], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page links to it if there is one."""
    metadata = Message()
    for url in urls:
        metadata["Project-URL"] = url
    monkeypatch.setattr(app, "metadata", lambda _: metadata)

    assert app._documentation.__wrapped__() == expected

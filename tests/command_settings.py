"""The backend's kwargs in the tests of commands, in a file or in Airflow's configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend.cli.configuration import BACKEND

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

US_HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
EU_HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


def build_kwargs(folder: Path) -> dict[str, Any]:
    """Return kwargs with two connections and a cache of their own."""
    return {"connections": {"docker_default": US_HOST, "docker_eu": EU_HOST}, "cache_dir": str(folder / "cache")}


def write_kwargs(folder: Path, kwargs: dict[str, Any]) -> tuple[str, str]:
    """Write kwargs to a file, and return the arguments with which a command reads it."""
    path = folder / "kwargs.json"
    path.write_text(json.dumps(kwargs))
    return "--backend-kwargs", str(path)


def configure_airflow(monkeypatch: pytest.MonkeyPatch, home: Path, kwargs: dict[str, Any]) -> None:
    """Configure the backend in Airflow with environment variables."""
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))

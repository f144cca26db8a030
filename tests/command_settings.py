"""What the tests of commands are configured with, by a file or by Airflow's own configuration."""

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
    """Return the kwargs of a backend with two connections and a cache of its own."""
    connections = {"docker_default": US_HOST, "docker_eu": EU_HOST}
    return {"connections": connections, "cache_dir": str(folder / "cache")}


def write_kwargs(folder: Path, kwargs: dict[str, Any]) -> tuple[str, str]:
    """Return the arguments by which a command reads the kwargs from a file."""
    path = folder / "kwargs.json"
    path.write_text(json.dumps(kwargs))
    return "--backend-kwargs", str(path)


def configure_airflow(monkeypatch: pytest.MonkeyPatch, home: Path, kwargs: dict[str, Any]) -> None:
    """Configure the backend in Airflow, by environment variables."""
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))

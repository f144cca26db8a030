"""The backend as Airflow builds it in a task."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Connection

from ecr_secrets_backend import EcrSecretsBackend

CONN_ID = "docker_default"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


def build_backend(**kwargs: Any) -> EcrSecretsBackend:
    backend = EcrSecretsBackend(**{"connections": {CONN_ID: HOST}, **kwargs})
    backend._set_connection_class(Connection)
    return backend

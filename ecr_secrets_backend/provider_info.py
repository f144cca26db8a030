"""What Airflow's listing of providers reads."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the description of this package, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-ecr-secrets-backend",
        "name": "Amazon ECR secrets backend",
        "description": "Serves Docker connections with live Amazon ECR tokens.",
        "secrets-backends": ["ecr_secrets_backend.EcrSecretsBackend"],
        # Airflow has ``airflow ecr`` of it from 3.2 on, and ignores it before.
        "cli": ["ecr_secrets_backend.cli.airflow_commands.get_cli_commands"],
    }

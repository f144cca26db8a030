"""The description of this package for Airflow's list of providers."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the description, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-ecr-secrets-backend",
        "name": "Amazon ECR secrets backend",
        "description": "Serves Docker connections with live Amazon ECR tokens.",
        "secrets-backends": ["ecr_secrets_backend.EcrSecretsBackend"],
        # Airflow 3.2 and later reads it, and adds the command ``airflow ecr``.
        "cli": ["ecr_secrets_backend.cli.airflow_commands.get_cli_commands"],
    }

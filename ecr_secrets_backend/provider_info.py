"""What Airflow's listing of providers reads: who this is, and what it adds."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Describe this package in the form of Airflow's ``provider_info.schema.json``.

    ``cli`` makes ``airflow ecr`` from Airflow 3.2 on; older ones leave it aside.
    """
    return {
        "package-name": "airflow-ecr-secrets-backend",
        "name": "Amazon ECR secrets backend",
        "description": "Serves Docker connections with live Amazon ECR tokens.",
        "secrets-backends": ["ecr_secrets_backend.EcrSecretsBackend"],
        "cli": ["ecr_secrets_backend.cli.airflow_commands.get_cli_commands"],
    }

"""What Airflow itself finds of this package: its provider, its secrets backend, and ``airflow ecr``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.providers_manager import ProvidersManager

from ecr_secrets_backend import __version__
from tests.airflow.test_configured_backend import aws, environment, run
from tests.airflow_version import HAS_PROVIDER_COMMANDS

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

__all__ = ["aws", "environment"]  # the fixtures


def test_airflow_lists_the_provider() -> None:
    """With its version and the backend's class, which can be imported."""
    manager = ProvidersManager()  # type: ignore[no-untyped-call]

    assert manager.providers["airflow-ecr-secrets-backend"].version == __version__
    assert "ecr_secrets_backend.backend.EcrSecretsBackend" in manager.secrets_backend_class_names


@pytest.mark.timeout(120)
def test_airflow_offers_the_commands(environment: dict[str, str], aws: AwsStandIn) -> None:
    """From 3.2 on, with their results and exit codes; before, Airflow knows no such command."""
    for _ in range(2):
        done = run("-m", "airflow", "ecr", "token", "docker_default", environment=environment)
        if not HAS_PROVIDER_COMMANDS:
            assert "invalid choice: 'ecr'" in done.stderr
            return
        assert done.returncode == 0, done.stderr
        assert aws.authorise("AWS", done.stdout.splitlines()[-1]).alive
    assert len(aws.calls()) == 1

    status = run("-m", "airflow", "ecr", "status", "--output", "json", environment=environment).stdout
    assert json.loads(status[status.index("{\n") :])["tokens"][0]["connections"] == ["docker_default"]

    wrong = run("-m", "airflow", "ecr", "token", "docker_other", environment=environment)
    assert wrong.returncode == 2
    assert "'docker_other' is not mapped" in wrong.stderr

"""The backend in a process of its own: a connection that Airflow cannot build, and its imports."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    return {"connections": {"docker_default": REGISTRY}, "cache_dir": str(tmp_path)}


def run(program: str) -> str:
    """Run a program in a new process, and return all that it prints."""
    return subprocess.check_output([sys.executable, "-c", program], stderr=subprocess.STDOUT, text=True)


def test_a_connection_that_airflow_cannot_build_is_a_failed_lookup(
    aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server with a Fernet key that is not valid: the cause is reported, and no frame holds the token."""
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "not a key")
    shown = run(f"""if True:
        import traceback
        from ecr_secrets_backend import EcrSecretsBackend
        from ecr_secrets_backend.errors import ConnectionUnavailableError
        try:
            EcrSecretsBackend(**{kwargs!r}).get_connection("docker_default")
        except ConnectionUnavailableError as error:
            print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
    """)

    assert "Airflow cannot build its Connection" in shown
    assert "fernet_key" in shown
    assert len(aws.calls()) == 1
    assert not [secret for secret in aws.secrets() if secret in shown]


def test_a_second_process_needs_no_boto3(aws: AwsStandIn, kwargs: dict[str, Any]) -> None:
    """The host's cache serves it, without an import."""
    EcrSecretsBackend(**kwargs).get_connection("docker_default")
    shown = run(f"""if True:
        import sys
        from ecr_secrets_backend import EcrSecretsBackend
        modules = set(sys.modules)
        assert EcrSecretsBackend(**{kwargs!r}).get_conn_value("docker_default")
        print(sorted(set(sys.modules) - modules), "boto3" in sys.modules)
    """)

    assert shown.splitlines()[-1] == "[] False"
    assert len(aws.calls()) == 1

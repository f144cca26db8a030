"""What the backend needs a process of its own for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ecr_secrets_backend import EcrSecretsBackend

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"

UNBUILDABLE = """
import traceback
from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConnectionUnavailableError
backend = EcrSecretsBackend(connections={{"docker_default": {host!r}}}, cache_dir={cache_dir!r})
try:
    backend.get_connection("docker_default")
except ConnectionUnavailableError as error:
    print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
"""


def test_a_connection_that_airflow_cannot_build_is_a_failed_lookup(aws: AwsStandIn, tmp_path: Path) -> None:
    """Such as on a server with a bad Fernet key: its cause is reported, and no frame holds the token."""
    program = UNBUILDABLE.format(host=HOST, cache_dir=str(tmp_path))
    environment = {**os.environ, "AIRFLOW__CORE__FERNET_KEY": "not a key"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)

    assert "Airflow cannot build its Connection" in run.stdout
    assert "fernet_key" in run.stdout
    assert len(aws.calls()) == 1
    assert not [secret for secret in aws.secrets() if secret in run.stdout + run.stderr]


def test_a_second_process_needs_no_boto3(aws: AwsStandIn, tmp_path: Path) -> None:
    """It is served from the host's cache, with nothing imported for it."""
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}
    EcrSecretsBackend(**kwargs).get_connection("docker_default")
    program = f"""if True:
        import sys
        from ecr_secrets_backend import EcrSecretsBackend
        modules = set(sys.modules)
        backend = EcrSecretsBackend(**{kwargs!r})
        assert backend.get_conn_value("docker_default")
        print(sorted(set(sys.modules) - modules), "boto3" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)

    assert run.stdout.splitlines()[-1] == "[] False"
    assert len(aws.calls()) == 1

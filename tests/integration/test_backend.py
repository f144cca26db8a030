"""The backend in a process of its own: a connection that Airflow cannot build, and its imports."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


def test_a_connection_that_airflow_cannot_build_is_a_failed_lookup(aws: AwsStandIn, tmp_path: Path) -> None:
    """As on a server with a Fernet key that is not valid: the cause is reported, and no frame holds the token."""
    program = f"""if True:
        import traceback
        from ecr_secrets_backend import EcrSecretsBackend
        from ecr_secrets_backend.errors import ConnectionUnavailableError
        backend = EcrSecretsBackend(connections={{"docker_default": {REGISTRY!r}}}, cache_dir={str(tmp_path)!r})
        try:
            backend.get_connection("docker_default")
        except ConnectionUnavailableError as error:
            print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
    """
    environment = {**os.environ, "AIRFLOW__CORE__FERNET_KEY": "not a key"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)

    assert "Airflow cannot build its Connection" in run.stdout
    assert "fernet_key" in run.stdout
    assert len(aws.calls()) == 1
    assert not [secret for secret in aws.secrets() if secret in run.stdout + run.stderr]


def test_a_second_process_needs_no_boto3(aws: AwsStandIn, tmp_path: Path) -> None:
    """The host's cache serves it, without an import."""
    kwargs = {"connections": {"docker_default": REGISTRY}, "cache_dir": str(tmp_path)}
    EcrSecretsBackend(**kwargs).get_connection("docker_default")
    program = f"""if True:
        import sys
        from ecr_secrets_backend import EcrSecretsBackend
        modules = set(sys.modules)
        backend = EcrSecretsBackend(**{kwargs!r})
        assert backend.get_conn_value("docker_default")
        print(sorted(set(sys.modules) - modules), "boto3" in sys.modules)
    """
    output = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert output.splitlines()[-1] == "[] False"
    assert len(aws.calls()) == 1

"""The backend down to the AWS stand-in: a connection that Airflow cannot build, its imports and its log."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import Memory
from tests.airflow_version import put_into_task
from tests.process_helpers import REGISTRY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.stand_ins.aws import AwsStandIn


def test_a_connection_that_airflow_cannot_build_is_a_failed_lookup(aws: AwsStandIn, tmp_path: Path) -> None:
    """As on a server with a Fernet key that is not valid: the cause is reported, and no frame holds the token."""
    program = f"""if True:
        import traceback
        from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import Memory
from tests.airflow_version import put_into_task
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
from ecr_secrets_backend.cache import Memory
from tests.airflow_version import put_into_task
        modules = set(sys.modules)
        backend = EcrSecretsBackend(**{kwargs!r})
        assert backend.get_conn_value("docker_default")
        print(sorted(set(sys.modules) - modules), "boto3" in sys.modules)
    """
    output = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert output.splitlines()[-1] == "[] False"
    assert len(aws.calls()) == 1


def test_a_request_has_a_line_at_info_and_a_lookup_one_at_debug(
    aws: AwsStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They name the token's registry, identity, source and end; the libraries that call AWS log nothing."""
    caplog.set_level(logging.DEBUG)
    first, other = (
        EcrSecretsBackend(connections={"docker_default": REGISTRY}, cache_dir=str(tmp_path)) for _ in range(2)
    )
    other._cache._memory = Memory()  # as in another process of the host
    for backend in (first, other, other):
        put_into_task(backend)
        backend.get_connection("docker_default")

    assert len(aws.calls()) == 1
    assert [record.name for record in caplog.records if record.name.startswith(("boto", "urllib3", "s3tr"))] == []
    request, _, *hits = [record for record in caplog.records if record.name.startswith("ecr_secrets_")]
    assert request.levelname == "INFO"
    assert re.fullmatch(
        rf"Received an ECR token for connection 'docker_default': registry {REGISTRY}, region us-east-1, "
        r"identity boto3's default credentials, valid until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00, in \d+\.\d s",
        request.getMessage(),
    )
    assert [re.sub(r"4[23]\d{3} s", "43200 s", f"{hit.levelname} {hit.getMessage()}") for hit in hits] == [
        "DEBUG Connection 'docker_default': a token from the host's cache, valid for 43200 s more",
        "DEBUG Connection 'docker_default': a token from the process's memory, valid for 43200 s more",
    ]

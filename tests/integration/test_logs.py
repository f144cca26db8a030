"""The log lines of successful lookups; test_aws_faults.py and test_cache_faults.py have the other lines."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import Memory
from tests.airflow_version import put_into_task
from tests.process_helpers import REGISTRY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.stand_ins.aws import AwsStandIn


def test_a_request_has_a_line_at_info_and_a_lookup_one_at_debug(
    aws: AwsStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They name the token's registry, identity, source and end; the libraries that call AWS log nothing."""
    caplog.set_level(logging.DEBUG)
    first, other = (
        EcrSecretsBackend(connections={"docker_default": REGISTRY}, cache_dir=str(tmp_path)) for _ in range(2)
    )
    other._logins._cache._memory = Memory()  # as in another process of the host
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

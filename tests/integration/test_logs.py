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
    import pytest

    from tests.process_helpers import Host


def test_a_request_has_a_line_at_info_and_a_lookup_one_at_debug(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """They name the token's registry, identity, source and end; the libraries that call AWS log nothing."""
    caplog.set_level(logging.DEBUG)
    first, other = (EcrSecretsBackend(**host.kwargs) for _ in range(2))
    other._logins._cache._memory = Memory()  # as in another process of the host
    for backend in (first, other, other):
        put_into_task(backend)
        backend.get_connection("docker_default")

    assert [record.name for record in caplog.records if record.name.startswith(("boto", "urllib3", "s3tr"))] == []
    lines = [f"{record.levelname} {record.message}" for record in caplog.records if record.name.startswith("ecr_sec")]
    variable = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00|4[23]\d{3}(?= s more$)|\d+\.\d(?= s$)"
    token = f"registry {REGISTRY}, region us-east-1, identity boto3's default credentials, valid until …, in … s"
    assert [re.sub(variable, "…", line) for line in lines] == [
        f"INFO Received an ECR token for connection 'docker_default': {token}",
        "DEBUG Connection 'docker_default': a new token, valid for … s more",
        "DEBUG Connection 'docker_default': a token from the host's cache, valid for … s more",
        "DEBUG Connection 'docker_default': a token from the process's memory, valid for … s more",
    ]

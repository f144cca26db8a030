"""What each lookup imports and reads. The process of which all others are forks imports this module once."""

from __future__ import annotations

from functools import cache

import botocore.loaders
import botocore.session
import pytest  # noqa: F401 - each process imports the main module, a script of pytest

from ecr_secrets_backend import aws
from ecr_secrets_backend.identity import AwsIdentity
from tests import process_helpers  # noqa: F401 - and what it imports
from tests.airflow_version import TaskConnection

botocore.session.create_loader = cache(botocore.loaders.create_loader)  # keeps the files that it has read
aws.request_token(AwsIdentity("ecr", "us-east-1"))
TaskConnection(conn_id="docker_default", conn_type="docker")

"""What of a request to AWS takes seconds, or a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Hang

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

ROLE = "arn:aws:iam::210987654321:role/pull"


def test_a_hang_is_bounded(aws: AwsStandIn) -> None:
    """With the timeouts that users have: half of what a lookup may take in all."""
    aws.script(Hang(20))
    started_at = time.monotonic()

    with pytest.raises(TokenError) as caught:
        request_token(AwsIdentity("ecr", "us-east-1"))

    assert caught.value.failure.code == "ReadTimeoutError"
    assert time.monotonic() - started_at < 15


@pytest.mark.parametrize("role_arn", [None, ROLE])
def test_no_log_holds_a_secret_at_any_level(aws: AwsStandIn, role_arn: str | None) -> None:
    """In a fresh process, everything at DEBUG, a role assumed or not; other threads' lines are left alone."""
    program = f"""if True:
        import logging, sys
        logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
        from ecr_secrets_backend.aws import request_token
        from ecr_secrets_backend.identity import AwsIdentity
        print(request_token(AwsIdentity("ecr", "us-east-1", role_arn={role_arn!r})))
        logging.getLogger("botocore.parsers").debug("after the mint")
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)

    assert "EcrToken(" in run.stdout
    assert "after the mint" in run.stdout
    output = run.stdout + run.stderr
    assert [secret for secret in aws.secrets() if secret in output] == []

"""The base of the end-to-end tests: registries as strict as ECR."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import EU_HOST, US_HOST, Site
from tests.stand_ins.registry import EXPIRED_MESSAGE

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

REQUEST = """
import boto3
print(boto3.client("ecr", "us-east-1").get_authorization_token()["authorizationData"][0]["authorizationToken"])
"""


@pytest.mark.parametrize(
    ("password", "host", "message", "verdict"),
    [
        ("made up", US_HOST, "unauthorized: Not Authorized", "unknown"),
        ("token", EU_HOST, "unauthorized: Not Authorized", "unknown"),
        ("expired token", US_HOST, re.escape(EXPIRED_MESSAGE), "expired"),
    ],
    ids=["made up", "another region", "expired"],
)
def test_a_registry_refuses_all_but_the_valid_tokens_of_its_region(
    site: Site, aws: AwsStandIn, registries: RegistryStandIn, password: str, host: str, message: str, verdict: str
) -> None:
    """The message for an expired token is ECR's."""
    if "expired" in password:
        site.world.inside(lambda: aws.set(token_lifetime=-1))
    auth = site.run("python", "-c", REQUEST).stdout.strip() if "token" in password else "QVdTOm1hZGUgdXA="
    (site.docker / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))

    with pytest.raises(AssertionError, match=message):
        site.pull(host)

    assert registries.requests()[-1].verdict == verdict

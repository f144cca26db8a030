from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from ecr_secrets_backend.identity import CREDENTIAL_VARIABLES, AwsIdentity

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")


@pytest.mark.parametrize("name", [field.name for field in fields(AwsIdentity)])
def test_whatever_decides_whose_token_it_is_changes_the_key(name: str) -> None:
    """Two identities never share a token."""
    change: dict[str, Any] = {name: "other"}
    assert replace(IDENTITY, **change).key != IDENTITY.key


@pytest.mark.parametrize("name", CREDENTIAL_VARIABLES)
def test_the_environment_is_part_of_the_identity(name: str) -> None:
    """Two processes with other credentials in their environments are two identities."""
    assert IDENTITY.in_environment({name: "a"}).key != IDENTITY.in_environment({name: "b"}).key


def test_what_boto3_does_not_read_is_no_part_of_it() -> None:
    """Unrelated variables, and the rotation of what belongs to one access key, change nothing."""
    assert IDENTITY.in_environment({"PATH": "a"}) == IDENTITY.in_environment({"PATH": "b", "AWS_SESSION_TOKEN": "x"})


def test_the_environment_gives_the_region_where_none_is_configured() -> None:
    """So that a region named here and one named there share a token."""
    nowhere = replace(IDENTITY, region=None)

    assert nowhere.in_environment({"AWS_DEFAULT_REGION": "us-east-1"}) == IDENTITY.in_environment({})
    assert IDENTITY.in_environment({"AWS_DEFAULT_REGION": "eu-west-1"}).region == "us-east-1"


def test_the_key_reveals_no_access_key() -> None:
    """A key is the name of a file."""
    identity = IDENTITY.in_environment({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"})

    assert "AKIA" not in identity.key + repr(identity)
    assert identity.key.isalnum()


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (IDENTITY, "boto3's default credentials"),
        (replace(IDENTITY, profile_name="prod"), "profile prod"),
        (
            replace(IDENTITY, role_arn="arn:aws:iam::123456789012:role/pull", profile_name="prod"),
            "arn:aws:iam::123456789012:role/pull, assumed by profile prod",
        ),
    ],
)
def test_it_says_who_it_is_as_far_as_is_known(identity: AwsIdentity, text: str) -> None:
    """Messages name the identity without asking AWS."""
    assert str(identity) == text

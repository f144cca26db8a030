from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.identity import AwsIdentity

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")


@pytest.mark.parametrize("name", [field.name for field in fields(AwsIdentity)])
def test_whatever_decides_whose_token_it_is_changes_the_key(name: str) -> None:
    """Two identities never share a token."""
    change: dict[str, Any] = {name: "other"}
    assert replace(IDENTITY, **change).key != IDENTITY.key


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_ECR",
        "AWS_ENDPOINT_URL_ECR_PUBLIC",
        "AWS_ENDPOINT_URL_STS",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "HOME",
    ],
)
def test_the_environment_is_part_of_the_identity(name: str) -> None:
    """Two processes with other credentials in their environments are two identities."""
    assert IDENTITY.in_environment({name: "a"}).key != IDENTITY.in_environment({name: "b"}).key


def test_what_boto3_does_not_read_is_no_part_of_it() -> None:
    """Unrelated variables, and the rotation of what belongs to one access key, change nothing."""
    assert IDENTITY.in_environment({"PATH": "a"}) == IDENTITY.in_environment({"PATH": "b", "AWS_SESSION_TOKEN": "x"})


KEYS = "aws_access_key_id = {}\naws_secret_access_key = {}\n"


@pytest.mark.parametrize("variable", ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"])
@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("", KEYS.format("one", "a"), False),
        (KEYS.format("one", "a"), KEYS.format("two", "b"), False),
        (KEYS.format("one", "a"), KEYS.format("one", "b"), True),
        (KEYS.format("one", "a") + "aws_session_token=x", KEYS.format("two", "b") + "aws_session_token=y", True),
        (KEYS.format("one", "a") + "aws_security_token=x", KEYS.format("two", "b") + "aws_security_token=y", True),
        (KEYS.format("one", "a") + "aws_session_token=x", KEYS.format("one", "a"), False),
        ("aws_expiration = noon", "aws_expiration = midnight", True),
        ("role_arn = a", "role_arn = b", False),
        ("[profile a]\nsso_role_name = a", "[profile a]\nsso_role_name = b", False),
        ("role_arn = a", "# a comment\nrole_arn = a", True),
        ("role_arn = a\nregion = b", "region = b\nrole_arn = a", True),
    ],
)
def test_what_lasts_in_the_files_of_aws_is_part_of_the_identity(
    tmp_path: Path, variable: str, before: str, after: str, is_same: bool
) -> None:
    """Static keys and what leads to a role; not keys that come with a session token, which rotate."""
    file = tmp_path / "file"

    def key(text: str) -> str:
        file.write_text(f"[default]\n{text}\n")
        return IDENTITY.in_environment({variable: str(file)}).key

    assert (key(before) == key(after)) is is_same


@pytest.mark.parametrize("content", [b"no section", b"[a]\n[a]", b"\xff", b"[a]\nb"])
def test_a_file_that_cannot_be_read_is_left_to_boto3(tmp_path: Path, content: bytes) -> None:
    """It says what is wrong, when it mints."""
    file = tmp_path / "file"
    file.write_bytes(content)
    variables = {"AWS_CONFIG_FILE": str(file)}
    key = IDENTITY.in_environment(variables).key
    file.unlink()

    assert IDENTITY.in_environment(variables).key == key


def test_the_files_of_aws_are_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a variable names others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    without = IDENTITY.in_environment({}).key
    (tmp_path / ".aws").mkdir()
    keys = set()
    for name in ("credentials", "config"):
        (tmp_path / ".aws" / name).write_text("[default]\nrole_arn = a\n")
        keys.add(IDENTITY.in_environment({}).key)

    assert len(keys | {without}) == 3


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"exp": 2}, True),
        ({"jti": "longer by some characters"}, True),
        ({"iss": "https://cluster-2.example"}, False),
        ({"sub": "system:serviceaccount:team:two"}, False),
    ],
)
@pytest.mark.parametrize("padding", ["", "x", "xx", "xxx"])
def test_the_service_account_of_a_pod_is_part_of_the_identity(
    tmp_path: Path, change: dict[str, object], is_same: bool, padding: str
) -> None:
    """Not the rest of its token, which is replaced every day."""
    file = tmp_path / "token"
    claims = {"iss": "https://cluster-1.example", "sub": "system:serviceaccount:team:one", "exp": 1, "jti": padding}

    def key(claims: dict[str, object]) -> str:
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        file.write_text(f"header.{payload}.signature")
        return IDENTITY.in_environment({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}).key

    assert (key({**claims}) == key({**claims, **change})) is is_same


@dataclass
class Connection:
    """What an Airflow connection has."""

    login: str | None = None
    host: str | None = None
    extra_dejson: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        (None, Connection(), False),
        (Connection("one"), Connection("two"), False),
        (Connection("one"), Connection(extra_dejson={"aws_access_key_id": "one"}), True),
        (Connection("one"), Connection("one", extra_dejson={"aws_access_key_id": "two"}), True),
        (Connection(host="a"), Connection(host="b"), False),
        (Connection(extra_dejson={"role_arn": "a"}), Connection(extra_dejson={"role_arn": "b"}), False),
        (
            Connection("one", extra_dejson={"aws_session_token": "x"}),
            Connection("two", extra_dejson={"aws_session_token": "y"}),
            True,
        ),
    ],
)
def test_what_lasts_in_an_airflow_connection_is_part_of_the_identity(
    before: Connection | None, after: Connection, is_same: bool
) -> None:
    """As in a file of AWS's."""
    keys = {IDENTITY.in_environment({}, connection).key for connection in (before, after)}

    assert (len(keys) == 1) is is_same


@pytest.mark.parametrize("token", ["", "text", "a.b.c", "a.e30.c", "a.W10.c", "a.bnVsbA.c", "\xe9.e30.c"])
def test_a_pods_token_of_another_kind_tells_nothing(tmp_path: Path, token: str) -> None:
    """Only Kubernetes' own names a service account."""
    file = tmp_path / "token"
    file.write_text(token)
    variable = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"

    assert IDENTITY.in_environment({variable: str(file)}) == IDENTITY.in_environment({})
    file.unlink()
    assert IDENTITY.in_environment({variable: str(file)}) == IDENTITY.in_environment({})


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
        (replace(IDENTITY, aws_conn_id="aws_ecr"), "Airflow connection aws_ecr"),
    ],
)
def test_it_says_who_it_is_as_far_as_is_known(identity: AwsIdentity, text: str) -> None:
    """Messages name the identity without asking AWS."""
    assert str(identity) == text

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.identity import AwsIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")


@pytest.mark.parametrize("name", [field.name for field in fields(AwsIdentity)])
def test_each_field_of_an_identity_changes_the_key(name: str) -> None:
    """Two identities never share a token."""
    change: dict[str, Any] = {name: "other"}
    assert replace(IDENTITY, **change).key != IDENTITY.key


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
        *("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CREDENTIAL_FILE", "BOTO_CONFIG", "HOME"),
        *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_ECR_PUBLIC", "AWS_ENDPOINT_URL_STS"),
        *("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_A_VARIABLE_OF_TOMORROW"),
        *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "no_proxy"),
        *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    ],
)
def test_processes_that_differ_in_a_variable_of_boto3_share_no_token(name: str) -> None:
    keys = {IDENTITY.in_environment(variables).key for variables in ({}, {name: "a"}, {name: "b"})}

    assert len(keys) == 3


def test_processes_that_differ_in_other_variables_share_a_token() -> None:
    """The order of the variables does not matter."""
    variables = {"AWS_PROFILE": "a", "HOME": "/home/a"}
    others = {"PATH": "b", "JAVA_HOME": "b", "AIRFLOW_CTX_TASK_ID": "b", "HTTP_PROXY_PORT": "1"}
    reordered = {**others, **dict(reversed(variables.items()))}

    assert IDENTITY.in_environment(reordered) == IDENTITY.in_environment(variables)


FILES = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG", "AWS_CREDENTIAL_FILE"]
TOKEN_FILES = ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]


def rewrite(file: Path, text: str) -> None:
    file.write_text(text)
    os.utime(file, (1, 1))


def replace_file(file: Path, text: str) -> None:
    new = file.with_name("new")
    rewrite(new, text)
    new.rename(file)


def touch(file: Path, text: str) -> None:
    file.write_text(text)
    os.utime(file, (2, 2))


@pytest.mark.parametrize("variable", [*FILES, *TOKEN_FILES])
@pytest.mark.parametrize("change", [rewrite, replace_file, touch])
def test_a_file_that_is_written_again_makes_another_identity(
    tmp_path: Path, variable: str, change: Callable[[Path, str], None]
) -> None:
    """Also if the new keys have the same length, and if a tool sets the time of its copy."""
    file = tmp_path / "file"
    variables = {variable: str(file)}
    keys = [IDENTITY.in_environment(variables).key]
    for text in ("one", "two"):
        time.sleep(0.02)  # a file system's clock ticks a hundred times a second or more
        (rewrite if text == "one" else change)(file, text)
        keys += [IDENTITY.in_environment(variables).key] * 2

    assert len(set(keys)) == 3


@pytest.mark.parametrize("name", [".aws/credentials", ".aws/config", ".boto"])
def test_the_files_in_the_home_folder_are_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """boto3 reads them if no variable names others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    without = IDENTITY.in_environment({})
    (tmp_path / ".aws").mkdir()
    (tmp_path / name).touch()

    assert IDENTITY.in_environment({}) != without
    everywhere = dict.fromkeys(FILES, "/elsewhere")
    with_file = IDENTITY.in_environment(everywhere)
    (tmp_path / name).unlink()
    assert IDENTITY.in_environment(everywhere) == with_file


@pytest.mark.timeout(10)
@pytest.mark.parametrize("variable", [*FILES, *TOKEN_FILES])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_path_that_is_not_a_file_blocks_no_lookup(tmp_path: Path, variable: str, kind: str) -> None:
    """No descriptor stays open."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    assert IDENTITY.in_environment({variable: str(path)}) == IDENTITY.in_environment({variable: str(path)})
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.parametrize("variable", TOKEN_FILES)
def test_a_token_in_a_named_pipe_is_left_for_boto3(tmp_path: Path, variable: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(pipe, b"a.token.of a pod")
        IDENTITY.in_environment({variable: str(tmp_path / "pipe")})

        assert os.read(pipe, 100) == b"a.token.of a pod"
    finally:
        os.close(pipe)


@pytest.mark.parametrize("variable", TOKEN_FILES)
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
    tmp_path: Path, variable: str, change: dict[str, object], is_same: bool, padding: str
) -> None:
    """The rest of its token is not: it is replaced every hour."""
    file = tmp_path / "token"
    claims = {"iss": "https://cluster-1.example", "sub": "system:serviceaccount:team:one", "exp": 1, "jti": padding}

    def key(claims: dict[str, object]) -> str:
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        file.write_text(f"header.{payload}.signature")
        return IDENTITY.in_environment({variable: str(file)}).key

    assert (key({**claims}) == key({**claims, **change})) is is_same


NESTED = base64.urlsafe_b64encode(b"[" * 30_000).decode()


@pytest.mark.parametrize(
    "token",
    ["", "text", "a.b.c", "a.e30.c", "a.W10.c", "a.bnVsbA.c", "\xe9.e30.c", f"a.{NESTED}.c", "a." * 50_000],
    ids=lambda token: str(len(token)),
)
def test_the_times_of_a_token_without_a_service_account_are_part_of_the_identity(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    variables = {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}
    missing = IDENTITY.in_environment(variables)
    file.write_text(token)
    first = IDENTITY.in_environment(variables)

    assert IDENTITY.in_environment(variables) == first
    os.utime(file, (1, 1))
    assert len({missing, first, IDENTITY.in_environment(variables)}) == 3


@dataclass
class Connection:
    """The fields of an Airflow connection that hold credentials."""

    login: str | None = None
    password: str | None = None
    host: str | None = None
    extra: str | None = None


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        (Connection("a", "b", "c", "{}"), Connection("a", "b", "c", "{}"), True),
        (None, Connection(), False),
        *((Connection(**{name: "a"}), Connection(**{name: "b"}), False) for name in Connection.__annotations__),
        (Connection("a"), Connection(None, "a"), False),
    ],
)
def test_a_change_of_the_airflow_connection_makes_another_identity(
    before: Connection | None, after: Connection, is_same: bool
) -> None:
    keys = {IDENTITY.in_environment({}, connection).key for connection in (before, after)}

    assert (len(keys) == 1) is is_same


def test_a_configured_region_and_the_same_default_region_share_a_token() -> None:
    """A configured region wins over the environment's."""
    variables = {"AWS_DEFAULT_REGION": "us-east-1"}

    assert replace(IDENTITY, region=None).in_environment(variables) == IDENTITY.in_environment(variables)
    assert IDENTITY.in_environment({"AWS_DEFAULT_REGION": "eu-west-1"}).region == "us-east-1"


def test_the_key_reveals_no_credentials() -> None:
    """The key is the name of a file."""
    variables = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret"}
    identity = IDENTITY.in_environment(variables, Connection(password="a-secret"))

    shown = identity.key + repr(identity)
    assert "AKIA" not in shown
    assert "a-secret" not in shown
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
def test_a_message_names_the_source_of_the_credentials(identity: AwsIdentity, text: str) -> None:
    assert str(identity) == text

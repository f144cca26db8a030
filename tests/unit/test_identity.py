from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecr_secrets_backend.identity import AwsIdentity

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
FILES = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG", "AWS_CREDENTIAL_FILE"]
CONNECTION_FIELDS = ("login", "password", "host", "extra")  # that hold credentials
TOKEN_FILES = ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]


@pytest.mark.parametrize("name", [field.name for field in fields(AwsIdentity)])
def test_each_field_of_an_identity_changes_the_key(name: str) -> None:
    """Two identities never share a token."""
    change: dict[str, Any] = {name: "other"}
    assert replace(IDENTITY, **change).key != IDENTITY.key


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_ACCESS_KEY_ID", "AWS_A_VARIABLE_OF_TOMORROW"),
        *("BOTO_CONFIG", "HOME", "HTTP_PROXY", "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"),
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


@pytest.mark.parametrize("variable", [*FILES, *TOKEN_FILES])
def test_a_file_that_is_written_again_or_replaced_makes_another_identity(tmp_path: Path, variable: str) -> None:
    """Also if the new keys have the same length, and if a tool sets the time of its copy."""
    file = tmp_path / "file"
    keys = [IDENTITY.in_environment({variable: str(file)}).key]
    for path, text in ((file, "one"), (file, "two"), (tmp_path / "new", "six")):
        time.sleep(0.02)  # a file system's clock ticks a hundred times a second or more
        path.write_text(text)
        os.utime(path, (1, 1))
        path.rename(file)
        keys += [IDENTITY.in_environment({variable: str(file)}).key for _ in range(2)]

    assert len(set(keys)) == 4


@pytest.mark.parametrize("name", [".aws/credentials", ".aws/config", ".boto"])
def test_the_files_in_the_home_folder_are_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """boto3 reads them if no variable names others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = dict.fromkeys(FILES, "/elsewhere")
    without = [IDENTITY.in_environment({}), IDENTITY.in_environment(elsewhere)]
    (tmp_path / ".aws").mkdir()
    (tmp_path / name).touch()

    assert IDENTITY.in_environment({}) != without[0]
    assert IDENTITY.in_environment(elsewhere) == without[1]


@pytest.mark.parametrize("variable", TOKEN_FILES)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_path_that_is_not_a_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    """Reading a pipe could block, or take the token that boto3 then waits for."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", pytest.fail)

        assert IDENTITY.in_environment({variable: str(path)}) == IDENTITY.in_environment({variable: str(path)})


@pytest.mark.parametrize("variable", TOKEN_FILES)
@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"exp": 2, "jti": "longer by some characters"}, True),
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


def connection(**fields: str) -> Any:
    return SimpleNamespace(**{**dict.fromkeys(CONNECTION_FIELDS), **fields})


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        (connection(login="a", extra="{}"), connection(login="a", extra="{}"), True),
        (None, connection(), False),
        *((connection(**{name: "a"}), connection(**{name: "b"}), False) for name in CONNECTION_FIELDS),
        (connection(login="a"), connection(password="a"), False),
    ],
)
def test_a_change_of_the_airflow_connection_makes_another_identity(before: Any, after: Any, is_same: bool) -> None:
    assert (IDENTITY.in_environment({}, before).key == IDENTITY.in_environment({}, after).key) is is_same


def test_a_configured_region_and_the_same_default_region_share_a_token() -> None:
    """A configured region wins over the environment's."""
    variables = {"AWS_DEFAULT_REGION": "us-east-1"}

    assert replace(IDENTITY, region=None).in_environment(variables) == IDENTITY.in_environment(variables)
    assert IDENTITY.in_environment({"AWS_DEFAULT_REGION": "eu-west-1"}).region == "us-east-1"


def test_the_key_reveals_no_credentials() -> None:
    """The key is the name of a file."""
    variables = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret"}
    identity = IDENTITY.in_environment(variables, connection(password="a-secret"))

    assert identity.key.isalnum()
    assert [secret for secret in ("AKIA", "a-secret") if secret in identity.key + repr(identity)] == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "boto3's default credentials"),
        ({"role_arn": "a-role", "profile_name": "prod"}, "a-role, assumed by profile prod"),
        ({"aws_conn_id": "aws_ecr"}, "Airflow connection aws_ecr"),
    ],
)
def test_a_message_names_the_source_of_the_credentials(fields: dict[str, Any], text: str) -> None:
    assert str(replace(IDENTITY, **fields)) == text

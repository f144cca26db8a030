"""Each recipe of ``docs/other-backends.md``, as the ``airflow.cfg`` of real Airflow processes."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.airflow.conftest import execute
from tests.stand_ins.aws import PROJECT, AwsStandIn
from tests.stand_ins.vault import VaultStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGION = "us-east-1"
PAGE = (PROJECT / "docs/other-backends.md").read_text()
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```ini\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
#: The source in which each recipe finds the connection, the variable and the option. Every source has all three, except
#: that files have no options. Environment variables have the first two, because Airflow itself reads them.
FOUND = {
    "AWS Secrets Manager": ["secrets-manager", "secrets-manager", "secrets-manager"],
    "AWS SSM Parameter Store": ["parameter-store", "parameter-store", "parameter-store"],
    "HashiCorp Vault": ["vault", "vault", "vault"],
    "Local files": ["files", "files"],
    "Environment variables": ["environment", "environment"],
    "Several at once": ["secrets-manager", "files", "vault"],
}
LOOK_UP = """
import json
from airflow.configuration import conf
from airflow.models.connection import Connection
from airflow.models.variable import Variable
warehouse, docker = map(Connection.get_connection_from_secrets, ["warehouse", "docker_default"])
found = [warehouse.host, Variable.get_variable_from_secrets("bucket"), conf.get("core", "fernet_key")]
print(json.dumps([found, docker.password]))
"""


def values(source: str) -> dict[str, str]:
    """Return the values of a source by their paths; each value names its source."""
    return {
        "airflow/connections/warehouse": f"postgres://reader:a-password@{source}/sales",
        "airflow/variables/bucket": source,
        "airflow/config/fernet": fernet_key(source),
    }


def fernet_key(source: str) -> str:
    return urlsafe_b64encode(source.ljust(32).encode()).decode()


@pytest.fixture(scope="module")
def aws_server() -> Iterator[AwsStandIn]:
    """ECR, and moto's Secrets Manager and Parameter Store."""
    with AwsStandIn.running() as aws:
        session = boto3.Session(aws.access_key_id, aws.secret_access_key, region_name=REGION)
        for path, value in values("secrets-manager").items():
            session.client("secretsmanager", endpoint_url=aws.url).create_secret(Name=path, SecretString=value)
        for path, value in values("parameter-store").items():
            session.client("ssm", endpoint_url=aws.url).put_parameter(Name=f"/{path}", Value=value, Type="SecureString")
        yield aws


@pytest.fixture
def vault() -> Iterator[VaultStandIn]:
    data = {path: {"conn_uri" if "connections" in path else "value": value} for path, value in values("vault").items()}
    with VaultStandIn.running(data) as vault:
        yield vault


def configure(recipe: str, folder: Path, vault: VaultStandIn) -> Path:
    """Write a recipe into ``airflow.cfg``, with the stand-ins' addresses in place of the recipe's."""
    (folder / "vault-token").write_text(vault.token)
    for path, value in values("files").items():
        _, kind, key = path.split("/")
        (folder / f"{kind}.json").write_text(json.dumps({key: value}))
    text = RECIPES[recipe].replace("/run/secrets", str(folder)).replace("https://vault.example.com:8200", vault.url)
    configuration = folder / "airflow.cfg"
    configuration.write_text(text)
    return configuration


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables of an Airflow that reads its backend in its configuration file."""
    own = {
        "AIRFLOW_CONN_WAREHOUSE": "postgres://reader:a-password@environment/sales",
        "AIRFLOW_VAR_BUCKET": "environment",
    }
    return {name: value for name, value in environment.items() if not name.startswith("AIRFLOW__SECRETS__")} | own


def test_every_recipe_of_the_page_is_tested() -> None:
    assert list(RECIPES) == list(FOUND)


@pytest.mark.parametrize("recipe", FOUND)
def test_a_recipe_finds_what_is_not_mapped(
    recipe: str, tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn, environment: dict[str, str]
) -> None:
    """A connection, a variable and an option come from its backends; the Docker connection has a valid token."""
    configure(recipe, tmp_path, vault)
    warehouse, bucket, *option = FOUND[recipe]
    if option:
        environment["AIRFLOW__CORE__FERNET_KEY_SECRET"] = "fernet"
    found, token = json.loads(execute(environment, "-c", LOOK_UP).stdout.splitlines()[-1])

    assert found == [warehouse, bucket, *(map(fernet_key, option) if option else found[2:])]
    assert aws.authorise("AWS", token, region=REGION).valid
    assert "docker_default" not in str([call.parameters for call in aws.calls()])


def test_aws_conn_id_can_name_a_connection_of_a_fallback_backend(
    tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn, environment: dict[str, str]
) -> None:
    access_key_id = "AKIAINVAULTFORTHISIS"
    keys = {"conn_type": "aws", "login": access_key_id, "password": aws.secret_access_key}
    vault.data = {**vault.data, "airflow/connections/aws_ecr": keys}
    configuration = configure("HashiCorp Vault", tmp_path, vault)
    text = configuration.read_text().replace('"connections":', '"aws_conn_id": "aws_ecr", "connections":')
    configuration.write_text(text)
    execute(environment, "-c", LOOK_UP)

    assert [call.access_key_id for call in aws.calls(operation="GetAuthorizationToken")] == [access_key_id]

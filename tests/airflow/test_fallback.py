"""Each recipe of ``docs/other-backends.md``, as the ``airflow.cfg`` of real Airflow processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import boto3
import pytest

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
OPTION = {"AIRFLOW__CORE__FERNET_KEY_SECRET": "fernet"}


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
def aws(aws_server: AwsStandIn) -> AwsStandIn:
    aws_server.reset()
    return aws_server


@pytest.fixture
def vault() -> Iterator[VaultStandIn]:
    data = {path: {"conn_uri" if "connections" in path else "value": value} for path, value in values("vault").items()}
    with VaultStandIn.running(data) as vault:
        yield vault


class Site:
    """An Airflow that is configured by a recipe, with the stand-ins' addresses in place of the recipe's."""

    def __init__(self, recipe: str, folder: Path, aws: AwsStandIn, vault: VaultStandIn) -> None:
        text = RECIPES[recipe].replace("/run/secrets", str(folder)).replace("https://vault.example.com:8200", vault.url)
        (folder / "airflow.cfg").write_text(text)
        (folder / "vault-token").write_text(vault.token)
        for path, value in values("files").items():
            _, kind, key = path.split("/")
            (folder / f"{kind}.json").write_text(json.dumps({key: value}))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            **aws.environment(),
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_WAREHOUSE": "postgres://reader:a-password@environment/sales",
            "AIRFLOW_VAR_BUCKET": "environment",
        }

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment | environment,
            timeout=50,
        )


def test_every_recipe_of_the_page_is_tested() -> None:
    assert list(RECIPES) == list(FOUND)


@pytest.mark.parametrize("recipe", FOUND)
def test_a_recipe_finds_what_is_not_mapped(recipe: str, tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn) -> None:
    """A connection, a variable and an option come from its backends; the Docker connection has a valid token."""
    warehouse, bucket, *option = FOUND[recipe]
    done = Site(recipe, tmp_path, aws, vault).run("-c", LOOK_UP, **(OPTION if option else {}))

    assert done.returncode == 0, done.stderr
    found, token = json.loads(done.stdout.splitlines()[-1])
    assert found == [warehouse, bucket, *(map(fernet_key, option) if option else found[2:])]
    assert aws.authorise("AWS", token, region=REGION).valid
    assert "docker_default" not in str([call.parameters for call in aws.calls()])


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("connections get docker_default -o json", "123456789012.dkr.ecr.us-east-1.amazonaws.com"),
        ("connections get warehouse", "secrets-manager"),
        ("variables get bucket", "files"),
        ("config get-value core fernet_key", fernet_key("vault")),
    ],
)
def test_the_commands_of_airflow_use_all_backends(
    command: str, shown: str, tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn
) -> None:
    option = OPTION if command.startswith("config") else {}
    done = Site("Several at once", tmp_path, aws, vault).run("-m", "airflow", *command.split(), **option)

    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_aws_conn_id_can_name_a_connection_of_a_fallback_backend(
    tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn
) -> None:
    access_key_id = "AKIAINVAULTFORTHISIS"
    keys = {"conn_type": "aws", "login": access_key_id, "password": aws.secret_access_key}
    vault.data = {**vault.data, "airflow/connections/aws_ecr": keys}
    site = Site("HashiCorp Vault", tmp_path, aws, vault)
    configuration = tmp_path / "airflow.cfg"
    configuration.write_text(
        configuration.read_text().replace('"connections":', '"aws_conn_id": "aws_ecr", "connections":')
    )
    done = site.run("-c", LOOK_UP)

    assert done.returncode == 0, done.stderr
    assert [call.access_key_id for call in aws.calls(operation="GetAuthorizationToken")] == [access_key_id]


def test_a_fallback_backend_that_fails_is_logged_and_skipped(
    tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn
) -> None:
    """Airflow continues with its own sources. The log names the backend and the failure, and quotes no secret."""
    vault.sealed = True
    done = Site("HashiCorp Vault", tmp_path, aws, vault).run("-c", LOOK_UP)

    found, _ = json.loads(done.stdout.splitlines()[-1])
    assert found[:2] == ["environment", "environment"]
    shown = done.stdout + done.stderr
    for what in ("connection 'warehouse'", "variable 'bucket'"):
        assert f"VaultBackend) failed to look up {what}: hvac.exceptions.VaultDown" in shown
    assert vault.token not in shown


def test_an_option_that_cannot_be_read_stops_airflow(tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn) -> None:
    """Without this backend it stops, too: Airflow must not continue with the default of the option."""
    vault.sealed = True
    program = "from airflow.configuration import conf; conf.get('core', 'fernet_key')"
    done = Site("HashiCorp Vault", tmp_path, aws, vault).run("-c", program, **OPTION)

    assert done.returncode != 0
    assert "Cannot retrieve config from alternative secrets backend" in done.stderr


def test_a_misspelt_class_stops_airflow_with_its_path(tmp_path: Path, aws: AwsStandIn, vault: VaultStandIn) -> None:
    site = Site("Several at once", tmp_path, aws, vault)
    configuration = tmp_path / "airflow.cfg"
    configuration.write_text(configuration.read_text().replace("VaultBackend", "VualtBackend"))
    done = site.run("-m", "airflow", "version")

    assert done.returncode != 0
    wrong = "airflow.providers.hashicorp.secrets.vault.VualtBackend"
    refusal = f"fallback_backends[1].backend is {wrong}, which cannot be imported: AttributeError"
    assert refusal in done.stderr.splitlines()[-1]

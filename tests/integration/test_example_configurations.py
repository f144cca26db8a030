"""Each ``airflow.cfg`` of the examples: Airflow reads it and builds the backend, and AWS answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from airflow import configuration
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.secrets import BaseSecretsBackend

    from tests.stand_ins.aws import AwsStandIn

FOLDER = Path(__file__).parents[2] / "examples/airflow_cfg"
OURS = "123456789012"
US = {"docker_default": (REGISTRY, "ecr", "us-east-1", OURS)}
#: The hosts of the connections of each file, and the service, region and account of their tokens.
CONNECTIONS = {
    "one_registry": US,
    "own_account": US,
    "several_registries": {
        **US,
        "docker_tools": ("111122223333.dkr.ecr.us-east-1.amazonaws.com", "ecr", "us-east-1", OURS),
        "docker_eu": ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "ecr", "eu-central-1", OURS),
    },
    "cross_account_role": {
        **US,
        "docker_partner": ("210987654321.dkr.ecr.us-east-1.amazonaws.com", "ecr", "us-east-1", "210987654321"),
    },
    "partitions": {
        **US,
        "docker_china": ("444455556666.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr", "cn-north-1", OURS),
        "docker_govcloud": ("777788889999.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "ecr", "us-gov-west-1", OURS),
    },
    "ecr_public": {**US, "docker_public": ("public.ecr.aws", "ecr-public", "us-east-1", OURS)},
    "aws_connection": US,
    "workers_request_tokens": US,
    "api_server_requests_tokens": US,
    "beside_secrets_manager": US,
    "emulator": {
        "docker_default": (
            "000000000000.dkr.ecr.us-east-1.localhost.localstack.cloud:4566",
            "ecr",
            "us-east-1",
            OURS,
        )
    },
}
EMULATOR_URL = "http://localhost.localstack.cloud:4566"
PROFILES = {"china": "AKIAFORTHEPARTCHINAS", "govcloud": "AKIAFORTHEPARTGOVCLD"}
PULLS = "arn:aws:iam::123456789012:role/pull-images"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, aws: AwsStandIn) -> Callable[..., BaseSecretsBackend | None]:
    """Let Airflow read an example, and build the backend of a server or a worker; the stand-in is the emulator."""

    def build(name: str, *, worker: bool = False) -> BaseSecretsBackend | None:
        conf = configuration.AirflowConfigParser()
        conf.read_string((FOLDER / f"{name}.cfg").read_text().replace(EMULATOR_URL, aws.url))
        monkeypatch.setattr(configuration, "conf", conf)
        backend: BaseSecretsBackend | None = configuration.get_custom_secret_backend(worker_mode=worker)
        return backend

    return build


@pytest.fixture
def aws(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AwsStandIn:
    """AWS, with the profiles and the Airflow connection that some examples name."""
    profiles = tmp_path / "credentials"
    profiles.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {key_id}\naws_secret_access_key = a-secret\n"
            for name, key_id in PROFILES.items()
        )
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    extra = {"role_arn": PULLS, "region_name": "us-east-1"}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", json.dumps({"conn_type": "aws", "extra": extra}))
    return aws


def test_every_example_is_in_the_table_above() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == CONNECTIONS.keys()


@pytest.mark.parametrize("name", CONNECTIONS)
def test_an_example_serves_its_connections(name: str, aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]) -> None:
    """With valid tokens of the right service, region and account."""
    backend = build(name, worker=name == "workers_request_tokens")
    assert backend.settings.connections.keys() == CONNECTIONS[name].keys()

    for conn_id, (host, service, region, account) in CONNECTIONS[name].items():
        served = backend.get_connection(conn_id)
        assert served is not None
        name, _, port = host.partition(":")
        assert (served.conn_type, served.host, served.login) == ("docker", name, "AWS")
        assert served.port == (int(port) if port else None)
        assert aws.authorise("AWS", str(served.password), region=region, service=service).valid
        calls = aws.calls(operation="GetAuthorizationToken", service=service, region=region)
        assert account in {call.account for call in calls}


def test_several_registries_cost_two_calls(aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]) -> None:
    """One for each region."""
    backend = build("several_registries")
    for conn_id in CONNECTIONS["several_registries"]:
        backend.get_connection(conn_id)

    assert sorted(call.region for call in aws.calls()) == ["eu-central-1", "us-east-1"]


def test_the_role_of_a_partner_is_assumed_with_its_external_id(
    aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]
) -> None:
    """And with the session name of the file, which the partner's CloudTrail shows."""
    build("cross_account_role").get_connection("docker_partner")

    (call,) = aws.calls(operation="AssumeRole")
    assert call.parameters["RoleArn"] == "arn:aws:iam::210987654321:role/pull-images"
    assert call.parameters["ExternalId"] == "from-the-partner"
    assert call.parameters["RoleSessionName"] == "airflow"


def test_each_partition_has_its_profile(aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]) -> None:
    backend = build("partitions")
    for conn_id in CONNECTIONS["partitions"]:
        backend.get_connection(conn_id)

    keys = {call.region: call.access_key_id for call in aws.calls()}
    assert (keys["cn-north-1"], keys["us-gov-west-1"]) == (PROFILES["china"], PROFILES["govcloud"])
    assert keys["us-east-1"] not in PROFILES.values()


def test_the_amazon_provider_assumes_the_role_of_the_aws_connection(
    aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]
) -> None:
    build("aws_connection").get_connection("docker_default")

    assert [call.parameters["RoleArn"] for call in aws.calls(operation="AssumeRole")] == [PULLS]


def test_if_workers_request_tokens_servers_have_no_backend(build: Callable[..., BaseSecretsBackend | None]) -> None:
    assert isinstance(build("workers_request_tokens", worker=True), EcrSecretsBackend)
    assert build("workers_request_tokens") is None


def test_if_the_api_server_requests_tokens_workers_have_another_backend(
    build: Callable[..., BaseSecretsBackend | None],
) -> None:
    """One without ECR, so that workers ask the API server."""
    assert isinstance(build("api_server_requests_tokens"), EcrSecretsBackend)
    assert type(build("api_server_requests_tokens", worker=True)) is EnvironmentVariablesBackend


def test_other_connections_and_variables_are_in_secrets_manager(
    aws: AwsStandIn, build: Callable[..., EcrSecretsBackend]
) -> None:
    client = boto3.client("secretsmanager", region_name="us-east-1")
    secrets = {"airflow/connections/warehouse": "postgres://reader@warehouse/sales", "airflow/variables/bucket": "b"}
    for name, value in secrets.items():
        client.create_secret(Name=name, SecretString=value)
    backend = build("beside_secrets_manager")

    warehouse = backend.get_connection("warehouse")
    assert warehouse is not None
    assert (warehouse.host, backend.get_variable("bucket")) == ("warehouse", "b")
    assert "docker_default" not in str([call.parameters for call in aws.calls()])

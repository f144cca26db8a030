"""Each ``airflow.cfg`` of the examples: Airflow reads it and builds the backend, and AWS answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow import configuration
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY
from tests.stand_ins.aws import PROJECT
from tests.stand_ins.credentials import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

FOLDER = PROJECT / "examples/airflow_cfg"
EMULATOR_URL = "http://localhost.localstack.cloud:4566"
KEY, CHINA_KEY, GOVCLOUD_KEY = "AKIAFORTHEENVIRONMNT", "AKIAFORTHEPARTCHINAS", "AKIAFORTHEPARTGOVCLD"
OURS, PARTNER = "123456789012", "210987654321"
ROLE = "arn:aws:iam::{}:role/pull-images"
US = {"docker_default": REGISTRY}
US_CALL = ("ecr", "us-east-1", OURS, KEY)
#: The hosts of the connections of each file, and the service, region, account and key of each call for a token.
EXAMPLES: dict[str, tuple[dict[str, str], list[tuple[str, str, str, str | None]]]] = {
    "one_registry": (US, [US_CALL]),
    "own_account": (US, [US_CALL]),
    "several_registries": (
        {
            **US,
            "docker_tools": "111122223333.dkr.ecr.us-east-1.amazonaws.com",
            "docker_eu": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        },
        [US_CALL, ("ecr", "eu-central-1", OURS, KEY)],
    ),
    "cross_account_role": (
        {**US, "docker_partner": "210987654321.dkr.ecr.us-east-1.amazonaws.com"},
        [US_CALL, ("ecr", "us-east-1", PARTNER, None)],
    ),
    "partitions": (
        {
            **US,
            "docker_china": "444455556666.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "docker_govcloud": "777788889999.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        },
        [US_CALL, ("ecr", "cn-north-1", OURS, CHINA_KEY), ("ecr", "us-gov-west-1", OURS, GOVCLOUD_KEY)],
    ),
    "ecr_public": ({**US, "docker_public": "public.ecr.aws"}, [US_CALL, ("ecr-public", "us-east-1", OURS, KEY)]),
    "aws_connection": (US, [("ecr", "us-east-1", OURS, None)]),
    "workers_request_tokens": (US, [US_CALL]),
    "api_server_requests_tokens": (US, [US_CALL]),
    "beside_secrets_manager": (US, [US_CALL]),
    "emulator": ({"docker_default": "000000000000.dkr.ecr.us-east-1.localhost.localstack.cloud:4566"}, [US_CALL]),
}
#: The account and some arguments of each role that an example assumes. The role's keys are its own.
ROLES: dict[str, dict[str, str]] = {
    "cross_account_role": {
        "RoleArn": ROLE.format(PARTNER),
        "ExternalId": "from-the-partner",
        "RoleSessionName": "airflow",  # the partner's CloudTrail shows it
    },
    "aws_connection": {"RoleArn": ROLE.format(OURS)},
}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, aws: AwsStandIn, tmp_path: Path) -> Callable[..., Any]:
    """
    Let Airflow read an example, and build the backend of a server or a worker.

    The stand-in is the emulator, and the profiles and the Airflow connection that some examples name exist.
    """
    profiles = {"china": CHINA_KEY, "govcloud": GOVCLOUD_KEY}
    keys = {name: {"aws_access_key_id": key, "aws_secret_access_key": "a-secret"} for name, key in profiles.items()}
    write(str(tmp_path / "credentials"), **keys)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    extra = {"role_arn": ROLE.format(OURS), "region_name": "us-east-1"}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", json.dumps({"conn_type": "aws", "extra": extra}))

    def build(name: str, *, worker: bool = False) -> Any:
        conf = configuration.AirflowConfigParser()
        conf.read_string((FOLDER / f"{name}.cfg").read_text().replace(EMULATOR_URL, aws.url))
        monkeypatch.setattr(configuration, "conf", conf)
        return configuration.get_custom_secret_backend(worker_mode=worker)

    return build


def test_every_example_is_in_the_table_above() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_serves_its_connections(name: str, aws: AwsStandIn, build: Callable[..., Any]) -> None:
    """With valid tokens, which cost one call for each service, region and account, with the right credentials."""
    hosts, expected = EXAMPLES[name]
    backend = build(name, worker=name == "workers_request_tokens")
    assert backend.settings.connections.keys() == hosts.keys()

    for conn_id, host in hosts.items():
        served = backend.get_connection(conn_id)
        host_name, _, port = host.partition(":")
        assert (served.conn_type, served.host, served.login) == ("docker", host_name, "AWS")
        assert served.port == (int(port) if port else None)
        region, service = ("us-east-1", "ecr-public") if host == "public.ecr.aws" else (host.split(".")[3], "ecr")
        assert aws.authorise("AWS", served.password, region=region, service=service).valid
    calls = aws.calls(operation="GetAuthorizationToken")
    assert [(call.service, call.region, call.account) for call in calls] == [call[:3] for call in expected]
    assert all(key in (None, call.access_key_id) for call, (*_, key) in zip(calls, expected, strict=True))
    roles = [call.parameters for call in aws.calls(operation="AssumeRole")]
    assert len(roles) == (name in ROLES)
    assert all(ROLES[name].items() <= role.items() for role in roles)


def test_if_workers_request_tokens_servers_have_no_backend(build: Callable[..., Any]) -> None:
    assert isinstance(build("workers_request_tokens", worker=True), EcrSecretsBackend)
    assert build("workers_request_tokens") is None


def test_if_the_api_server_requests_tokens_workers_have_another_backend(build: Callable[..., Any]) -> None:
    """One without ECR, so that workers ask the API server."""
    assert isinstance(build("api_server_requests_tokens"), EcrSecretsBackend)
    assert type(build("api_server_requests_tokens", worker=True)) is EnvironmentVariablesBackend


def test_other_connections_and_variables_are_in_secrets_manager(aws: AwsStandIn, build: Callable[..., Any]) -> None:
    client = boto3.client("secretsmanager", region_name="us-east-1")
    client.create_secret(Name="airflow/connections/warehouse", SecretString="postgres://reader@warehouse/sales")
    client.create_secret(Name="airflow/variables/bucket", SecretString="b")
    backend = build("beside_secrets_manager")

    assert (backend.get_connection("warehouse").host, backend.get_variable("bucket")) == ("warehouse", "b")
    parameters = str([call.parameters for call in aws.calls()])
    assert "airflow/connections/warehouse" in parameters
    assert "docker_default" not in parameters

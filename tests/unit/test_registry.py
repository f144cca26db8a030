from __future__ import annotations

import json
from pathlib import Path

import botocore
import pytest

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.registry import PARTITIONS, Partition, Registry, parse_endpoint, partition_of

A = "123456789012"
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("host", "region", "fips", "dual_stack"),
    [
        (HOST, "us-east-1", False, False),
        (f"{A}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", True, False),
        (f"{A}.dkr-ecr.us-gov-east-1.on.aws", "us-gov-east-1", False, True),
        (f"{A}.dkr-ecr-fips.us-west-2.on.aws", "us-west-2", True, True),
        (f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", False, False),
        (f"{A}.dkr-ecr.cn-northwest-1.on.amazonwebservices.com.cn", "cn-northwest-1", False, True),
        (f"{A}.dkr.ecr.cn-northwest-1.on.amazonwebservices.com.cn", "cn-northwest-1", False, True),
        (f"{A}.dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", False, False),
        (f"{A}.dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", False, False),
        (f"{A}.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", False, False),
        (f"{A}.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", False, False),
        (f"{A}.dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", False, False),
    ],
)
def test_a_private_host_has_an_account_and_a_region(host: str, region: str, fips: bool, dual_stack: bool) -> None:
    """In each form of each partition, with FIPS and dual stack."""
    assert Registry.parse(host) == Registry(host, "ecr", A, region, fips=fips, dual_stack=dual_stack)


@pytest.mark.parametrize(("host", "dual_stack"), [("public.ecr.aws", False), ("ecr-public.aws.com", True)])
def test_ecr_public_has_no_account_and_one_region(host: str, dual_stack: bool) -> None:
    """Its API is in us-east-1."""
    assert Registry.parse(host) == Registry(host, "ecr-public", None, "us-east-1", fips=False, dual_stack=dual_stack)


@pytest.mark.parametrize("text", [f"HTTPS://{HOST}/", f"{A}.DKR.ecr.US-EAST-1.AmazonAWS.com"])
def test_a_scheme_a_slash_and_upper_case_are_accepted(text: str) -> None:
    """Docker finds a login under the bare host in lower case."""
    assert Registry.parse(text).host == HOST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Write a host such as "),
        ("https:///", "is empty"),
        (f"http://{HOST}", "has a scheme that is not https"),
        (f"AWS:secret@{HOST}", "has a user name before the host"),
        (f"{HOST}//", "has a path after the host"),
        (f"evil.example/{HOST}", "has a path after the host. Write the host only."),
        (f"{HOST}:443", "has a port after the host. Remove the port"),
        (f"{HOST}\n", "has white space in it"),
        (f"{A}.d\u212ar.ecr.us-east-1.amazonaws.com", "has a character that is not allowed"),  # the Kelvin sign
        ("localhost:5000", 'or an emulator, write {"registry": "localhost:5000", "region_name": "us-east-1"}.'),
        (f"{A}.dkr.ecr.us-east-1.example.com", f'write {{"registry": "{A}.dkr.ecr.us-east-1.example.com", "region'),
        (f"evil.example.{HOST}", "is not the host of an ECR registry"),
        (f"{A[:-1]}.dkr.ecr.us-east-1.amazonaws.com", "is not the host of an ECR registry"),
        (f"{A}3.dkr.ecr.us-east-1.amazonaws.com", "is not the host of an ECR registry"),
        (f"{A}.dkrxecr.us-east-1.amazonaws.com", "is not the host of an ECR registry"),
        ("public.ecr.aws.evil.example", "is not the host of an ECR registry"),
        (f"{A}.dkr.ecr.moon-base-1.amazonaws.com", 'has the region "moon-base-1", which is not an AWS region'),
        (f"{HOST}.evil.example", f"Write {HOST}."),
        (f"{HOST}.cn", f"Write {HOST}."),
        (f"{A}.dkr.ecr.cn-north-1.amazonaws.com", f"Write {A}.dkr.ecr.cn-north-1.amazonaws.com.cn."),
        (f"{A}.dkr.ecr.us-iso-east-1.sc2s.sgov.gov", "is not the host of a registry in us-iso-east-1"),
        (f"{A}.dkr.ecr.us-gov-east-1.on.aws", "is not the host of a registry in us-gov-east-1"),
        (f"{A}.dkr-ecr.eu-west-1.amazonaws.com", "is not the host of a registry in eu-west-1"),
        (f"{A}.dkr-ecr.eu-west-1.api.aws", "is not the host of a registry in eu-west-1"),
    ],
)
def test_a_text_that_is_not_a_host_of_ecr_is_refused_with_the_reason(text: str, message: str) -> None:
    """The message does not repeat a password before the host."""
    with pytest.raises(ConfigurationError) as caught:
        Registry.parse(text)

    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_host_is_built_for_an_unknown_region() -> None:
    with pytest.raises(ConfigurationError, match=r"moon-base-1.*\. Write a host such as "):
        Registry.of_account(A, "moon-base-1")


@pytest.mark.parametrize("region", ["us-east-1\n", "US-EAST-1", "us-east-1x", "us-east-1.evil", "us-ēast-1"])
def test_a_region_is_matched_as_a_whole(region: str) -> None:
    assert partition_of(region) is None


def test_partitions_are_those_of_botocore() -> None:
    """If AWS adds a partition, the table follows the installed botocore."""
    data = json.loads((Path(botocore.__file__).parent / "data" / "partitions.json").read_text())

    assert sorted(PARTITIONS) == sorted(
        Partition(
            name=partition["id"],
            region_pattern=partition["regionRegex"].removeprefix("^").removesuffix("$"),
            domain=partition["outputs"]["dnsSuffix"],
            dual_stack_domain=partition["outputs"]["dualStackDnsSuffix"],
        )
        for partition in data["partitions"]
    )


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://ECR.example.com:8443/", "ecr.example.com:8443"),
        ("localhost", "localhost"),
        ("registry:5000", "registry:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        (f"{A}.dkr.ecr.us-east-1.localstack.cloud:4566", f"{A}.dkr.ecr.us-east-1.localstack.cloud:4566"),
        ("vpce-1.dkr.ecr.us-east-1.vpce.amazonaws.com", "vpce-1.dkr.ecr.us-east-1.vpce.amazonaws.com"),
    ],
)
def test_a_registry_with_a_configured_region_may_have_any_host(text: str, host: str) -> None:
    """It may be a proxy in front of ECR, or an emulator, with or without a port."""
    expected = Registry(host, "ecr", None, "eu-west-1", fips=False, dual_stack=False)

    assert Registry.parse(text, custom_region="eu-west-1") == expected


@pytest.mark.parametrize("port", ["", ":8443"])
def test_a_host_of_ecr_keeps_its_own_region(port: str) -> None:
    """Also with a port, which a tunnel to the registry may have."""
    host = f"{A}.dkr.ecr-fips.us-east-1.amazonaws.com"

    assert Registry.parse(host + port, custom_region="eu-west-1") == Registry.parse(host)._replace(host=host + port)


@pytest.mark.parametrize(
    "text",
    [
        *("registry", "http://ecr.example.com", "me@ecr.example.com", "ecr.example.com/app", "ecr.example.com\n"),
        *("ecr.example.com:", "ecr.example.com:0", "ecr.example.com:65536", "ecr.example.com:5000:5000"),
        *("ecr..example.com", "-ecr.example.com", "ecr_proxy.example.com"),
        *(f"{A[:-1]}.dkr.ecr.us-east-1.amazonaws.com", f"{HOST}.cn:8443", f"{HOST}:", f"{HOST}:65536"),
        f"{A}.dkr.ecr.eu-west-1.on.aws",
    ],
)
def test_a_host_that_docker_does_not_accept_is_refused_with_any_region(text: str) -> None:
    """So is a mistyped host of ECR in one of AWS's domains."""
    with pytest.raises(ConfigurationError):
        Registry.parse(text, custom_region="us-east-1")


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("API.ECR.us-east-1.amazonaws.com", ("ecr", "us-east-1")),
        ("ecr.eu-west-1.api.aws", ("ecr", "eu-west-1")),
        ("ecr-fips.us-gov-west-1.amazonaws.com", ("ecr", "us-gov-west-1")),
        ("api.ecr.cn-north-1.amazonaws.com.cn", ("ecr", "cn-north-1")),
        ("api.ecr-public.us-east-1.amazonaws.com", ("ecr-public", "us-east-1")),
        ("vpce-0123-abcd-us-east-1a.api.ecr.us-east-1.vpce.amazonaws.com", ("ecr", "us-east-1")),
        ("sts.us-east-1.amazonaws.com", ("sts", "us-east-1")),
        ("localhost", (None, None)),
        ("[::1]", (None, None)),
        ("api.ecr.us-east-1.amazonaws.com.example.com", (None, None)),
        ("proxy-123.us-east-1.elb.amazonaws.com", (None, None)),
        ("vpce-0123.vpce-svc-0123.us-east-1.vpce.amazonaws.com", (None, None)),
        ("api.ecr.moon-base-1.amazonaws.com", (None, None)),
    ],
)
def test_an_endpoint_of_aws_names_its_service_and_region(host: str, endpoint: tuple[str | None, str | None]) -> None:
    """Any other names neither: an emulator, a proxy or a load balancer may serve any region."""
    assert parse_endpoint(f"https://{host}:443/") == endpoint

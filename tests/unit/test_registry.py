from __future__ import annotations

import json
from pathlib import Path

import botocore
import pytest

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.registry import PARTITIONS, Partition, Registry, parse_endpoint, partition_of

A = "123456789012"


@pytest.mark.parametrize(
    ("host", "region", "fips", "dual_stack"),
    [
        (f"{A}.dkr.ecr.us-east-1.amazonaws.com", "us-east-1", False, False),
        (f"{A}.dkr.ecr-fips.us-east-2.amazonaws.com", "us-east-2", True, False),
        (f"{A}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", True, False),
        (f"{A}.dkr-ecr.eu-west-1.on.aws", "eu-west-1", False, True),
        (f"{A}.dkr-ecr-fips.us-west-2.on.aws", "us-west-2", True, True),
        (f"{A}.dkr-ecr.us-gov-east-1.on.aws", "us-gov-east-1", False, True),
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
def test_every_form_of_a_private_host_is_understood(host: str, region: str, fips: bool, dual_stack: bool) -> None:
    """A host tells account, region, FIPS and dual stack."""
    assert Registry.parse(host) == Registry(host, "ecr", A, region, fips=fips, dual_stack=dual_stack)


@pytest.mark.parametrize(("host", "dual_stack"), [("public.ecr.aws", False), ("ecr-public.aws.com", True)])
def test_ecr_public_mints_in_one_region(host: str, dual_stack: bool) -> None:
    """ECR Public has no account, and its API answers in us-east-1."""
    assert Registry.parse(host) == Registry(host, "ecr-public", None, "us-east-1", fips=False, dual_stack=dual_stack)


@pytest.mark.parametrize(
    "text",
    [
        f"https://{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"HTTPS://{A}.dkr.ecr.us-east-1.amazonaws.com/",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com/",
        f"{A}.DKR.ecr.US-EAST-1.AmazonAWS.com",
    ],
)
def test_what_a_user_copies_from_elsewhere_is_forgiven(text: str) -> None:
    """The bare host in lower case comes out, which is what Docker looks a login up by."""
    assert Registry.parse(text).host == f"{A}.dkr.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "docker.io",
        "registry.gitlab.com",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com.evil.example",
        f"evil.example.{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"evil.example/{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com.",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com//",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com/app",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com:443",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com\n",
        f" {A}.dkr.ecr.us-east-1.amazonaws.com",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com\x00",
        f"AWS:secret@{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"http://{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"https://https://{A}.dkr.ecr.us-east-1.amazonaws.com",
        f"{A[:-1]}.dkr.ecr.us-east-1.amazonaws.com",
        f"{A}3.dkr.ecr.us-east-1.amazonaws.com",
        "١٢٣٤٥٦٧٨٩٠١٢.dkr.ecr.us-east-1.amazonaws.com",
        f"{A}.d\u212ar.ecr.us-east-1.amazonaws.com",  # the Kelvin sign, whose lower case is k
        f"{A}.dkr.ecr.us-east-1.amazonaws.com.cn",
        f"{A}.dkr.ecr.cn-north-1.amazonaws.com",
        f"{A}.dkr.ecr.us-gov-west-1.amazonaws.eu",
        f"{A}.dkr.ecr.us-iso-east-1.sc2s.sgov.gov",
        f"{A}.dkr.ecr.eu-west-1.on.aws",
        f"{A}.dkr.ecr.us-gov-east-1.on.aws",
        f"{A}.dkr-ecr.eu-west-1.amazonaws.com",
        f"{A}.dkr-ecr.eu-west-1.api.aws",
        f"{A}.dkr.ecr.moon-base-1.amazonaws.com",
        f"{A}.dkr.ecr..amazonaws.com",
        f"{A}.dkr.ecr-gov.us-east-1.amazonaws.com",
        f"{A}.dkrxecr.us-east-1.amazonaws.com",
        "public.ecr.aws.evil.example",
        "xpublic.ecr.aws",
    ],
)
def test_what_is_not_the_host_of_a_registry_is_refused(text: str) -> None:
    """Look-alikes, pairs of region and domain that do not belong together, ports, paths, users and odd characters."""
    with pytest.raises(ConfigurationError) as caught:
        Registry.parse(text)
    assert caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("https:///", "is empty"),
        (f"http://{A}.dkr.ecr.us-east-1.amazonaws.com", "a scheme that is not https"),
        (f"AWS:secret@{A}.dkr.ecr.us-east-1.amazonaws.com", "a user name before the host"),
        (f"{A}.dkr.ecr.us-east-1.amazonaws.com/app:latest", "a path after the host; leave the repository"),
        (f"{A}.dkr.ecr.us-east-1.amazonaws.com:443", "a port after the host; leave it off"),
        (f"{A}.dkr.ecr.us-east-1.amazonaws.com\n", "white space"),
        (f"{A}.dkr.ecr.us-east-1.amazonaws.com\x00", "a character that no host name has"),
        ("docker.io", "'docker.io', which is not the host of an ECR registry"),
        (f"{A}.dkr.ecr.moon-base-1.amazonaws.com", "the region 'moon-base-1'"),
    ],
)
def test_a_refusal_names_what_is_wrong(text: str, problem: str) -> None:
    """And, where a user name stands before the host, does not repeat what may be a password."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Registry.parse(text)

    assert "secret" not in str(caught.value)


def test_a_domain_of_another_partition_is_answered_with_the_right_host() -> None:
    """The message holds the host that was meant."""
    with pytest.raises(ConfigurationError, match=rf"its host is {A}\.dkr\.ecr\.cn-north-1\.amazonaws\.com\.cn"):
        Registry.parse(f"{A}.dkr.ecr.cn-north-1.amazonaws.com")


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", f"{A}.dkr.ecr.eu-central-1.amazonaws.com"),
        ("cn-north-1", f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", f"{A}.dkr.ecr.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_a_host_is_built_from_account_and_region(region: str, host: str) -> None:
    """The domain is the one of the region's partition."""
    assert Registry.of_account(A, region).host == host


def test_a_region_that_aws_does_not_have_builds_no_host() -> None:
    """The refusal names the region."""
    with pytest.raises(ConfigurationError, match=r"moon-base-1.* write a host such as "):
        Registry.of_account(A, "moon-base-1")


@pytest.mark.parametrize("region", ["us-east-1\n", "US-EAST-1", "us-east", "us-east-1.evil", "", "us-ēast-1"])
def test_a_region_is_matched_whole(region: str) -> None:
    """Nothing may hide before or behind a region's name."""
    assert partition_of(region) is None


def test_partitions_are_those_of_botocore() -> None:
    """When AWS opens a partition, or moves one, the table is to follow the installed botocore."""
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
        ("ecr.example.com", "ecr.example.com"),
        ("https://ECR.example.com:8443/", "ecr.example.com:8443"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost:5000"),
        ("registry:5000", "registry:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        (
            f"{A}.dkr.ecr.us-east-1.localhost.localstack.cloud:4566",
            f"{A}.dkr.ecr.us-east-1.localhost.localstack.cloud:4566",
        ),
        ("vpce-1.dkr.ecr.us-east-1.vpce.amazonaws.com", "vpce-1.dkr.ecr.us-east-1.vpce.amazonaws.com"),
    ],
)
def test_a_registry_may_have_any_name_if_its_region_is_known(text: str, host: str) -> None:
    """A proxy in front of ECR, an emulator, a registry on a port; the name comes out as images have it."""
    assert Registry.parse(text, other_region="eu-west-1") == Registry(
        host, "ecr", None, "eu-west-1", fips=False, dual_stack=False
    )


@pytest.mark.parametrize("port", ["", ":443", ":8443"])
def test_one_of_ecrs_own_names_says_its_region_itself(port: str) -> None:
    """Also with a port, where a tunnel leads to it."""
    host = f"{A}.dkr.ecr-fips.us-east-1.amazonaws.com"

    assert Registry.parse(host + port, other_region="eu-west-1") == Registry.parse(host)._replace(host=host + port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "registry",
        "http://ecr.example.com",
        "me@ecr.example.com",
        "ecr.example.com/app",
        "ecr.example.com:",
        "ecr.example.com:0",
        "ecr.example.com:65536",
        "ecr.example.com:5000:5000",
        "ecr..example.com",
        "-ecr.example.com",
        "ecr_proxy.example.com",
        " ecr.example.com",
        "ecr.example.com\n",
        f"{A[:-1]}.dkr.ecr.us-east-1.amazonaws.com",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com.cn:8443",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com:",
        f"{A}.dkr.ecr.us-east-1.amazonaws.com:65536",
        f"{A}.dkr.ecr.eu-west-1.on.aws",
    ],
)
def test_what_is_no_registry_to_docker_is_refused_under_any_name(text: str) -> None:
    """So is what resembles one of ECR's own names under AWS's own domains."""
    with pytest.raises(ConfigurationError):
        Registry.parse(text, other_region="us-east-1")


@pytest.mark.parametrize("text", ["ecr.example.com", "localhost:5000", f"{A}.dkr.ecr.us-east-1.example.com"])
def test_a_refusal_says_how_another_name_is_written(text: str) -> None:
    """A user who has a proxy or an emulator copies it from there."""
    with pytest.raises(ConfigurationError) as caught:
        Registry.parse(text)

    assert f'{{"registry": "{text}", "region_name": "us-east-1"}}' in caught.value.fix


@pytest.mark.parametrize(
    ("host", "service", "region"),
    [
        ("api.ecr.us-east-1.amazonaws.com", "ecr", "us-east-1"),
        ("API.ECR.us-east-1.amazonaws.com", "ecr", "us-east-1"),
        ("ecr.eu-west-1.api.aws", "ecr", "eu-west-1"),
        ("ecr-fips.us-gov-west-1.amazonaws.com", "ecr", "us-gov-west-1"),
        ("api.ecr.cn-north-1.amazonaws.com.cn", "ecr", "cn-north-1"),
        ("api.ecr-public.us-east-1.amazonaws.com", "ecr-public", "us-east-1"),
        ("vpce-0123-abcd.api.ecr.us-east-1.vpce.amazonaws.com", "ecr", "us-east-1"),
        ("vpce-0123-abcd-us-east-1a.api.ecr.us-east-1.vpce.amazonaws.com", "ecr", "us-east-1"),
        ("sts.us-east-1.amazonaws.com", "sts", "us-east-1"),
    ],
)
def test_an_endpoint_of_aws_names_its_service_and_region(host: str, service: str, region: str) -> None:
    """In each of the forms that AWS gives it."""
    assert parse_endpoint(f"https://{host}:443/") == (service, region)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://localhost:4566",
        "http://[::1]:4566/",
        "https://ecr.us-east-1.example.com",
        "https://api.ecr.us-east-1.amazonaws.com.example.com",
        "https://proxy-123.elb.us-east-1.amazonaws.com",
        "https://proxy-123.us-east-1.elb.amazonaws.com",
        "https://vpce-0123.vpce-svc-0123.us-east-1.vpce.amazonaws.com",
        "https://api.ecr.moon-base-1.amazonaws.com",
    ],
)
def test_any_other_endpoint_names_neither(url: str) -> None:
    """An emulator, a proxy, a load balancer: it may serve any region."""
    assert parse_endpoint(url) == (None, None)

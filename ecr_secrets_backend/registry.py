"""A registry's host name: what it says of account, region and partition, and how it is built from them."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from ecr_secrets_backend.errors import InvalidRegistryError

Service = Literal["ecr", "ecr-public"]

#: Where ECR Public's tokens are minted. Source: AWS General Reference, "Amazon ECR Public endpoints and quotas".
PUBLIC_REGION: Final = "us-east-1"

_EXAMPLE: Final = "write a host such as 123456789012.dkr.ecr.us-east-1.amazonaws.com or public.ecr.aws"


class Partition(NamedTuple):
    """A part of AWS with regions, accounts and domains of its own."""

    name: str
    region_pattern: str
    domain: str
    dual_stack_domain: str


#: A copy of botocore's ``data/partitions.json``: nothing is read while the backend is built.
#: ``tests/unit/test_registry.py`` fails when it differs from the botocore that is installed.
PARTITIONS: Final = (
    Partition("aws", r"(us|eu|ap|sa|ca|me|af|il|mx)\-\w+\-\d+", "amazonaws.com", "api.aws"),
    Partition("aws-cn", r"cn\-\w+\-\d+", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    Partition("aws-eusc", r"eusc\-(de)\-\w+\-\d+", "amazonaws.eu", "api.amazonwebservices.eu"),
    Partition("aws-iso", r"us\-iso\-\w+\-\d+", "c2s.ic.gov", "api.aws.ic.gov"),
    Partition("aws-iso-b", r"us\-isob\-\w+\-\d+", "sc2s.sgov.gov", "api.aws.scloud"),
    Partition("aws-iso-e", r"eu\-isoe\-\w+\-\d+", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    Partition("aws-iso-f", r"us\-isof\-\w+\-\d+", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    Partition("aws-us-gov", r"us\-gov\-\w+\-\d+", "amazonaws.com", "api.aws"),
)

_PRIVATE_HOST: Final = re.compile(
    r"(?P<account_id>[0-9]{12})\.dkr(?P<separator>[.-])ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<domain>[a-z0-9.-]+)"
)
_PUBLIC_HOSTS: Final = {"public.ecr.aws": False, "ecr-public.aws.com": True}
_HOST_CHARACTERS: Final = re.compile(r"[A-Za-z0-9.-]+")
_REGION_CHARACTERS: Final = re.compile(r"[a-z0-9-]+")


def partition_of(region: str) -> Partition | None:
    """Tell which partition a region belongs to.

    :param region: a region's name, such as ``eu-central-1``
    :return: its partition, by patterns, so that a region that opens tomorrow is known today; None if it is no region
    """
    if _REGION_CHARACTERS.fullmatch(region):
        for partition in PARTITIONS:
            if re.fullmatch(partition.region_pattern, region):
                return partition
    return None


class Registry(NamedTuple):
    """A registry of Amazon ECR or Amazon ECR Public, as its host name tells it.

    The forms of a host: https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html
    """

    host: str
    service: Service
    account_id: str | None
    region: str
    partition: str
    fips: bool
    dual_stack: bool

    @classmethod
    def parse(cls, text: str) -> Registry:
        """Read a registry's host name; an ``https://`` before it and one ``/`` after it are forgiven, as is upper case.

        :param text: the host as a user writes it
        :return: the registry; parsing its ``host`` again gives an equal one
        :raises InvalidRegistryError: the text is not the host of an ECR registry
        """
        host = _bare_host(text)
        if host in _PUBLIC_HOSTS:
            return cls(host, "ecr-public", None, PUBLIC_REGION, "aws", fips=False, dual_stack=_PUBLIC_HOSTS[host])
        match = _PRIVATE_HOST.fullmatch(host)
        if match is None:
            raise InvalidRegistryError(f"is {host!r}, which is not the host of an ECR registry", _EXAMPLE)
        region, domain = match["region"], match["domain"]
        partition = partition_of(region)
        if partition is None:
            raise InvalidRegistryError(f"names the region {region!r}, which AWS does not have", _EXAMPLE)
        dual_stack_domain = _registry_domain(partition)
        separators = {partition.domain: ".", dual_stack_domain: "-"}
        if partition.name == "aws-cn":  # China's dual-stack hosts are written in both ways
            separators[dual_stack_domain] = ".-"
        if match["separator"] not in separators.get(domain, ""):
            problem = f"is {host!r}, which is not how a registry in {region} is called"
            remedy = f"its host is {_private_host(match['account_id'], region, partition)}"
            raise InvalidRegistryError(problem, remedy)
        return cls(
            host=host,
            service="ecr",
            account_id=match["account_id"],
            region=region,
            partition=partition.name,
            fips=match["fips"] is not None,
            dual_stack=domain == dual_stack_domain,
        )

    @classmethod
    def of_account(cls, account_id: str, region: str) -> Registry:
        """Build the default private registry of an account.

        :param account_id: twelve digits
        :param region: the registry's region
        :return: the registry, under its IPv4 name
        :raises InvalidRegistryError: there is no such region
        """
        partition = partition_of(region)
        if partition is None:
            raise InvalidRegistryError(f"names the region {region!r}, which AWS does not have", _EXAMPLE)
        return cls.parse(_private_host(account_id, region, partition))


def _private_host(account_id: str, region: str, partition: Partition) -> str:
    return f"{account_id}.dkr.ecr.{region}.{partition.domain}"


def _registry_domain(partition: Partition) -> str:
    """Where a partition's dual-stack registries live: ``on.aws`` where its dual-stack APIs live in ``api.aws``."""
    return "on." + partition.dual_stack_domain.removeprefix("api.")


def _bare_host(text: str) -> str:
    """Strip what is forgiven, and name what is not.

    A character that no host name has is refused before the case is folded: the Kelvin sign folds to ``k``.
    """
    host = text[len("https://") :] if text[: len("https://")].lower() == "https://" else text
    host = host.removesuffix("/")
    if _HOST_CHARACTERS.fullmatch(host):
        return host.lower()
    if not host:
        problem = "is empty"
    elif "://" in host:
        problem = "has a scheme that is not https"
    elif "@" in host:
        problem = "has a user name before the host"
    elif "/" in host:
        remedy = "leave the repository to the image's name"
        raise InvalidRegistryError("has a path after the host", remedy)
    elif ":" in host:
        remedy = "leave it off: Docker would look the login up under another name"
        raise InvalidRegistryError("has a port after the host", remedy)
    elif any(character.isspace() for character in host):
        problem = "has white space in it"
    else:
        problem = "has a character that no host name has"
    raise InvalidRegistryError(problem, _EXAMPLE)

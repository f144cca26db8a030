"""Host names of ECR: what a registry's and an API endpoint's name say of account, region, partition and service."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from ecr_secrets_backend.errors import ConfigurationError

Service = Literal["ecr", "ecr-public"]

#: Where ECR Public's tokens are requested. Source: AWS General Reference, "Amazon ECR Public endpoints and quotas".
PUBLIC_REGION: Final = "us-east-1"

_EXAMPLE: Final = "write a host such as 123456789012.dkr.ecr.us-east-1.amazonaws.com or public.ecr.aws"
#: What to do where ECR is reached under another name.
_OTHER_NAME: Final = (
    'for a proxy in front of ECR or an emulator, write {{"registry": "{host}", "region_name": "us-east-1"}}'
)


class Partition(NamedTuple):
    """A part of AWS with regions, accounts and domains of its own."""

    name: str
    region_pattern: str
    domain: str
    dual_stack_domain: str

    @property
    def dual_stack_registry_domain(self) -> str:
        """The domain of dual-stack registries: ``on.aws`` where that of the APIs is ``api.aws``."""
        return "on." + self.dual_stack_domain.removeprefix("api.")


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
#: Under AWS's own domains, what resembles a registry is one, or a mistake.
_OWN_NAME: Final = re.compile(r"[0-9]+\.dkr[.-]ecr")
_OWN_DOMAINS: Final = tuple(
    f".{domain}" for each in PARTITIONS for domain in (each.domain, each.dual_stack_registry_domain)
)
_PUBLIC_HOSTS: Final = {"public.ecr.aws": False, "ecr-public.aws.com": True}
_HOST_CHARACTERS: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]*)?")
#: What is wrong with any other text, and how to fix it: the first pattern that is found says so.
_HOST_FAULTS: Final = (
    (r"\A\Z", "is empty", _EXAMPLE),
    (r"://", "has a scheme that is not https", _EXAMPLE),
    (r"@", "has a user name before the host", _EXAMPLE),
    (r"/", "has a path after the host", "leave the repository to the image's name"),
    (r"\s", "has white space in it", _EXAMPLE),
    (r"", "has a character that no host name has", _EXAMPLE),
)
_LABEL: Final = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
#: What Docker takes for a registry. Without a dot, a port or this name, it is a part of a repository's name.
_REGISTRY_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+(:[1-9]\d{{0,4}})?|{_LABEL}:[1-9]\d{{0,4}}|localhost")
_HIGHEST_PORT: Final = 65535
_REGION_CHARACTERS: Final = re.compile(r"[a-z0-9-]+")
#: Source: AWS General Reference, "Amazon ECR endpoints and quotas"; VPC endpoints have a name of their own before it.
_API_HOST: Final = re.compile(
    r"(vpce-[a-z0-9-]+\.(?=api\.))?(api\.)?(?P<service>[a-z0-9-]+?)(-fips)?\.(?P<region>[a-z0-9-]+)\.(vpce\.)?(?P<domain>[a-z0-9.-]+)"
)


def partition_of(region: str) -> Partition | None:
    """Return the partition of a region by patterns, so that a new region is known as well; None if it is not one."""
    if not _REGION_CHARACTERS.fullmatch(region):
        return None
    return next((each for each in PARTITIONS if re.fullmatch(each.region_pattern, region)), None)


def parse_endpoint(url: str) -> tuple[str | None, str | None]:
    """Return the service and the region that the URL of an endpoint names; None twice if it is not one of AWS's own."""
    match = _API_HOST.fullmatch(urlsplit(url).hostname or "")
    partition = partition_of(match["region"]) if match else None
    if match is None or partition is None or match["domain"] not in (partition.domain, partition.dual_stack_domain):
        return None, None
    return match["service"], match["region"]


class Registry(NamedTuple):
    """A registry of Amazon ECR or Amazon ECR Public.

    The forms of a host: https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html

    :param host: the name that images have, with the port if there is one
    """

    host: str
    service: Service
    account_id: str | None
    region: str
    fips: bool
    dual_stack: bool

    @classmethod
    def parse(cls, text: str, path: str = "registry", other_region: str | None = None) -> Registry:
        """Read a registry's host; an ``https://`` before it and one ``/`` after it are forgiven, as is upper case.

        :param path: where the text stands, for the message
        :param other_region: None: only ECR's own names are read. Otherwise any name is, with or without a port, as a
            proxy in front of ECR or an emulator has it; if it is not one of ECR's own, this is its region
        :raises ConfigurationError: the text is not the host of a registry
        """
        host = _bare_host(text, path)
        name, colon, port = host.partition(":")
        other = _OTHER_NAME.format(host=host)
        if other_region is not None:
            if not _REGISTRY_HOST.fullmatch(host) or int(port or 1) > _HIGHEST_PORT:
                fix = "write host or host:port, with a dot or a port, so that Docker takes it for a registry"
                raise ConfigurationError(path, f"is {host!r}, which is not the host of a registry", fix)
            if name not in _PUBLIC_HOSTS and not (_OWN_NAME.match(name) and name.endswith(_OWN_DOMAINS)):
                _existing_partition(other_region, path)
                return cls(host, "ecr", None, other_region, fips=False, dual_stack=False)
        elif colon:
            fix = f"leave it off: Docker would look the login up under another name; {other}"
            raise ConfigurationError(path, "has a port after the host", fix)
        if name in _PUBLIC_HOSTS:
            return cls(host, "ecr-public", None, PUBLIC_REGION, fips=False, dual_stack=_PUBLIC_HOSTS[name])
        match = _PRIVATE_HOST.fullmatch(name)
        if match is None:
            problem = f"is {name!r}, which is not the host of an ECR registry"
            raise ConfigurationError(path, problem, f"{_EXAMPLE}; {other}")
        account_id, region, domain = match["account_id"], match["region"], match["domain"]
        partition = _existing_partition(region, path, f"{_EXAMPLE}; {other}")
        dual_stack_domain = partition.dual_stack_registry_domain
        forms = {(".", partition.domain), ("-", dual_stack_domain)}
        if partition.name == "aws-cn":  # China's dual-stack hosts are written in both ways
            forms.add((".", dual_stack_domain))
        if (match["separator"], domain) not in forms:
            problem = f"is {name!r}, which is not the name of a registry in {region}"
            fix = f"its host is {cls.of_account(account_id, region).host}; {other}"
            raise ConfigurationError(path, problem, fix)
        return cls(host, "ecr", account_id, region, match["fips"] is not None, domain == dual_stack_domain)

    @classmethod
    def find(cls, text: str) -> Registry | None:
        """Return the registry that has one of ECR's own names; None for any other text."""
        with suppress(ConfigurationError):
            return cls.parse(text)
        return None

    @classmethod
    def of_account(cls, account_id: str, region: str) -> Registry:
        """Return the default private registry of an account, of twelve digits, under its IPv4 name."""
        return cls.parse(f"{account_id}.dkr.ecr.{region}.{_existing_partition(region, 'registry').domain}")


def _existing_partition(region: str, path: str, fix: str = _EXAMPLE) -> Partition:
    partition = partition_of(region)
    if partition is None:
        raise ConfigurationError(path, f"names the region {region!r}, which AWS does not have", fix)
    return partition


def _bare_host(text: str, path: str) -> str:
    """Return a host, with its port if it has one, in lower case and without what is forgiven.

    A character that no host name has is refused before the case is folded: the Kelvin sign folds to ``k``.
    """
    host = re.sub(r"\Ahttps://|/\Z", "", text, flags=re.IGNORECASE)
    if _HOST_CHARACTERS.fullmatch(host):
        return host.lower()
    problem, fix = next(explanation for pattern, *explanation in _HOST_FAULTS if re.search(pattern, host))
    raise ConfigurationError(path, problem, fix)

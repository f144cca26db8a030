"""ECR's host names: the account, region, partition and service that a registry or an API endpoint belongs to."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from ecr_secrets_backend.errors import ConfigurationError

Service = Literal["ecr", "ecr-public"]

#: The region of ECR Public's API. Source: AWS General Reference, "Amazon ECR Public endpoints and quotas".
PUBLIC_REGION: Final = "us-east-1"


class Partition(NamedTuple):
    """A part of AWS with its own regions, accounts and domains."""

    name: str
    region_pattern: str
    domain: str
    dual_stack_domain: str

    @property
    def dual_stack_registry_domain(self) -> str:
        """Return the domain of dual-stack registries, such as ``on.aws``; ``api.aws`` is that of the APIs."""
        return "on." + self.dual_stack_domain.removeprefix("api.")


#: A copy of botocore's ``data/partitions.json``, because building the backend reads no file.
#: ``tests/unit/test_registry.py`` compares the two.
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
#: The hosts of ECR Public, and whether each is dual-stack.
_PUBLIC_HOSTS: Final = {"public.ecr.aws": False, "ecr-public.aws.com": True}
#: A host in one of AWS's domains with this prefix is a registry of ECR, perhaps mistyped.
_ECR_PREFIX: Final = re.compile(r"[0-9]+\.dkr[.-]ecr")
_AWS_DOMAINS: Final = tuple(
    f".{domain}" for each in PARTITIONS for domain in (each.domain, each.dual_stack_registry_domain)
)
_LABEL: Final = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
#: The registries that Docker accepts. Docker reads a name without a dot or a port as a repository, except localhost.
_DOCKER_REGISTRY: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+(:[1-9]\d{{0,4}})?|{_LABEL}:[1-9]\d{{0,4}}|localhost")
_HIGHEST_PORT: Final = 65535
#: Source: AWS General Reference, "Amazon ECR endpoints and quotas". VPC endpoints begin with a name of their own.
_API_HOST: Final = re.compile(
    r"(vpce-[a-z0-9-]+\.(?=api\.))?(api\.)?(?P<service>[a-z0-9-]+?)(-fips)?\.(?P<region>[a-z0-9-]+)\.(vpce\.)?(?P<domain>[a-z0-9.-]+)"
)

_HOST_FIX: Final = "Write a host such as 123456789012.dkr.ecr.us-east-1.amazonaws.com or public.ecr.aws."
_CUSTOM_HOST_FIX: Final = (
    'For a proxy in front of ECR or an emulator, write {{"registry": "{host}", "region_name": "us-east-1"}}.'
)
_HOST_CHARACTERS: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]*)?")
#: The problem and the fix for a text with other characters. The first pattern that matches counts.
_HOST_PROBLEMS: Final = (
    (r"\A\Z", "is empty", _HOST_FIX),
    (r"://", "has a scheme that is not https", _HOST_FIX),
    (r"@", "has a user name before the host", _HOST_FIX),
    (r"/", "has a path after the host", "Write the host only. The repository is a part of the image's name."),
    (r"\s", "has white space in it", _HOST_FIX),
    (r"", "has a character that is not allowed in a host name", _HOST_FIX),
)


def partition_of(region: str) -> Partition | None:
    """Return the partition of a region, which may be newer than the installed botocore; None if it is not a region."""
    if not re.fullmatch(r"[a-z0-9-]+", region):
        return None
    return next((each for each in PARTITIONS if re.fullmatch(each.region_pattern, region)), None)


def parse_endpoint(url: str) -> tuple[str | None, str | None]:
    """Return the service and the region of an AWS endpoint's URL; (None, None) for any other URL."""
    match = _API_HOST.fullmatch(urlsplit(url).hostname or "")
    partition = partition_of(match["region"]) if match else None
    if match is None or partition is None or match["domain"] not in (partition.domain, partition.dual_stack_domain):
        return None, None
    return match["service"], match["region"]


class Registry(NamedTuple):
    """A registry of Amazon ECR or Amazon ECR Public.

    The forms of a host: https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html

    :param host: the host as in image names, with the port if there is one
    """

    host: str
    service: Service
    account_id: str | None
    region: str
    fips: bool
    dual_stack: bool

    @classmethod
    def parse(cls, text: str, path: str = "registry", custom_region: str | None = None) -> Registry:
        """Read a registry's host. Upper case, an ``https://`` before the host and one ``/`` after it are accepted.

        :param path: the kwarg that holds the text, for the message
        :param custom_region: the region of a host that is not ECR's own, such as a proxy in front of ECR or an
            emulator, with or without a port; None: the host must be ECR's own
        :raises ConfigurationError: the text is not the host of a registry
        """
        host = _bare_host(text, path)
        name, colon, port = host.partition(":")
        custom_fix = _CUSTOM_HOST_FIX.format(host=host)
        if custom_region is not None:
            if not _DOCKER_REGISTRY.fullmatch(host) or int(port or 1) > _HIGHEST_PORT:
                fix = "Write host or host:port, with a dot or a port, so that Docker reads it as a registry."
                raise ConfigurationError(path, f'is "{host}", which is not the host of a registry', fix)
            if name not in _PUBLIC_HOSTS and not (_ECR_PREFIX.match(name) and name.endswith(_AWS_DOMAINS)):
                return cls(host, "ecr", None, custom_region, fips=False, dual_stack=False)
        elif colon:
            fix = f"Remove the port, under which Docker would not find the login. {custom_fix}"
            raise ConfigurationError(path, "has a port after the host", fix)
        if name in _PUBLIC_HOSTS:
            return cls(host, "ecr-public", None, PUBLIC_REGION, fips=False, dual_stack=_PUBLIC_HOSTS[name])
        match = _PRIVATE_HOST.fullmatch(name)
        partition = partition_of(match["region"]) if match else None
        if match is None or partition is None:
            problem = f'is "{name}", which is not the host of an ECR registry'
            if match:
                problem = f'has the region "{match["region"]}", which is not an AWS region'
            raise ConfigurationError(path, problem, f"{_HOST_FIX} {custom_fix}")
        account_id, region, domain = match["account_id"], match["region"], match["domain"]
        dual_stack_domain = partition.dual_stack_registry_domain
        forms = {(".", partition.domain), ("-", dual_stack_domain)}
        if partition.name == "aws-cn":  # China has two forms of dual-stack hosts
            forms.add((".", dual_stack_domain))
        if (match["separator"], domain) not in forms:
            problem = f'is "{name}", which is not the host of a registry in {region}'
            fix = f"Write {cls.of_account(account_id, region).host}. {custom_fix}"
            raise ConfigurationError(path, problem, fix)
        return cls(host, "ecr", account_id, region, match["fips"] is not None, domain == dual_stack_domain)

    @classmethod
    def find(cls, text: str) -> Registry | None:
        """Return the registry that has one of ECR's own hosts; None for any other text."""
        with suppress(ConfigurationError):
            return cls.parse(text)
        return None

    @classmethod
    def of_account(cls, account_id: str, region: str) -> Registry:
        """Return the default private registry of an account, under its IPv4 host."""
        domain = (partition_of(region) or PARTITIONS[0]).domain
        return cls.parse(f"{account_id}.dkr.ecr.{region}.{domain}")


def _bare_host(text: str, path: str) -> str:
    """Return a host in lower case, with its port if it has one, and without a scheme or a slash."""
    host = re.sub(r"\Ahttps://|/\Z", "", text, flags=re.IGNORECASE)
    if _HOST_CHARACTERS.fullmatch(host):  # before lower(), which makes a k of the Kelvin sign
        return host.lower()
    problem, fix = next(explanation for pattern, *explanation in _HOST_PROBLEMS if re.search(pattern, host))
    raise ConfigurationError(path, problem, fix)

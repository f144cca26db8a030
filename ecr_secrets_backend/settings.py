"""The backend's kwargs: read once into frozen settings, or refused with one line that names the fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ecr_secrets_backend import setting_readers as readers
from ecr_secrets_backend.errors import ConfigurationError, InvalidRegistryError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import Registry, parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecr_secrets_backend.setting_readers import Reader

DEFAULT_REFRESH_BEFORE_SECONDS: Final = 3600.0


class MappedConnection(NamedTuple):
    """An Airflow connection that the backend serves.

    :param conn_id: its ID in Airflow
    :param host: the registry that Docker logs in to, as images name it; None: the default one of the identity's account
    :param identity: who asks AWS for the token
    :param extra: JSON text for the connection's extra, or None
    """

    conn_id: str
    host: str | None
    identity: AwsIdentity
    extra: str | None


@dataclass(frozen=True, slots=True)
class FallbackBackend:
    """Another secrets backend, asked for what is not mapped.

    :param path: where its setting stands, such as ``fallback_backends[0]``
    :param backend: the dotted name of its class
    :param kwargs: what the class is called with; it may hold secrets, such as Vault's token
    """

    path: str
    backend: str
    kwargs: Mapping[str, object] = field(repr=False)


class Settings(NamedTuple):
    """All that the kwargs say; see :data:`SETTINGS` for what each means."""

    connections: Mapping[str, MappedConnection]
    refresh_before: float
    cache: Literal["host", "process"]
    cache_dir: str | None
    on_error: Literal["raise", "next"]
    fallback_backends: tuple[FallbackBackend, ...]

    @classmethod
    def parse(cls, kwargs: Mapping[str, object]) -> Settings:
        """Read the backend's kwargs; nothing else is read, opened or called.

        :param kwargs: as Airflow passes them: JSON values, or raw strings from per-kwarg environment variables
        :return: the settings
        :raises ConfigurationError: one of the kwargs cannot be right
        """
        if not kwargs:
            problem = "are missing"
            remedy = (
                'set backend_kwargs = {"connections": {"docker_default": "<registry host>"}}'
                "; if they are set, Airflow could not parse them as JSON and has dropped them with a warning"
            )
            raise ConfigurationError("backend_kwargs", problem, remedy)
        values = _read("", kwargs, SETTINGS)
        if "connections" not in values:
            raise ConfigurationError("connections", "is missing", _CONNECTIONS_REMEDY)
        common = {name: values[name] for name in AWS_SETTINGS if name in values}
        connections = [_connection(conn_id, shape, common) for conn_id, shape in values["connections"].items()]
        _refuse_two_sources("", common)
        for mapped in connections:
            if (aws_conn_id := mapped.identity.aws_conn_id) in values["connections"]:
                own = f"connections.{mapped.conn_id}.aws_conn_id"
                raise ConfigurationError(
                    "aws_conn_id" if common.get("aws_conn_id") == aws_conn_id else own,
                    f"is {readers.shown(aws_conn_id)}, which is itself served by this backend",
                    "name an Airflow connection of type aws",
                )
        if "assume_role_kwargs" in common and not any(mapped.identity.role_arn for mapped in connections):
            raise ConfigurationError("assume_role_kwargs", *_NO_ROLE)
        return cls(
            connections={mapped.conn_id: mapped for mapped in connections},
            refresh_before=values.get("refresh_before", DEFAULT_REFRESH_BEFORE_SECONDS),
            cache=values.get("cache", "host"),
            cache_dir=values.get("cache_dir"),
            on_error=values.get("on_error", "raise"),
            fallback_backends=values.get("fallback_backends", ()),
        )


#: Each says where the credentials come from.
_SOURCES: Final = frozenset({"profile_name", "aws_conn_id"})
_NO_ROLE: Final = ("has no effect without a role", "set role_arn as well, or leave it off")


def _read(path: str, given: Mapping[str, object], known: Mapping[str, Reader]) -> dict[str, Any]:
    """Read each value that was given by its setting; None stands for "not given", as it does in Airflow."""
    values = {}
    for name, value in given.items():
        read = known.get(name)
        if read is None:
            raise readers.unknown_setting(f"{path}{name}", name, known)
        if value is not None:
            values[name] = read(f"{path}{name}", value)
    return values


def _connection(conn_id: str, shape: object, common: Mapping[str, Any]) -> MappedConnection:
    path = f"connections.{conn_id}"
    if isinstance(shape, str) and not shape.lstrip().startswith("{"):
        own: dict[str, Any] = {"registry": shape}
        registry_path = path
    else:
        own = _read(
            f"{path}.", readers.structure(path, shape, dict, "a registry's host, or an object"), CONNECTION_SETTINGS
        )
        registry_path = f"{path}.registry"
    registry = _named_registry(path, registry_path, own) if "registry" in own else _own_registry(path, own, common)
    _refuse_two_sources(f"{path}.", own)
    nearer = {name: own[name] for name in AWS_SETTINGS if name in own}
    has_source = not _SOURCES.isdisjoint(nearer)
    aws = {name: value for name, value in common.items() if not (has_source and name in _SOURCES)} | nearer
    aws["region"] = registry.region if registry else aws.get("region_name")
    aws.pop("region_name", None)
    if "role_arn" not in aws:
        if "assume_role_kwargs" in own:
            raise ConfigurationError(f"{path}.assume_role_kwargs", *_NO_ROLE)
        aws.pop("assume_role_kwargs", None)
    identity = AwsIdentity(
        service=registry.service if registry else "ecr",
        use_fips=registry is not None and registry.fips,
        use_dual_stack=registry is not None and registry.dual_stack,
        **aws,
    )
    _refuse_other_endpoint(path, f"{path}.endpoint_url" if "endpoint_url" in own else "endpoint_url", identity)
    return MappedConnection(conn_id, registry.host if registry else None, identity, own.get("extra"))


def _named_registry(path: str, registry_path: str, own: Mapping[str, Any]) -> Registry:
    """Return the registry that a connection names; under any name if its region is named as well."""
    text, region = own["registry"], own.get("region_name")
    try:
        registry = Registry.parse(text) if region is None else Registry.parse_other(text, region)
    except InvalidRegistryError as error:
        raise ConfigurationError(registry_path, error.problem, error.remedy) from None
    for name, value in (("account_id", registry.account_id), ("region_name", registry.region)):
        if name in own and own[name] != value:
            problem = f"is {readers.shown(own[name])}, which the registry {registry.host} contradicts"
            raise ConfigurationError(f"{path}.{name}", problem, "leave it off: the registry's host decides it")
    return registry


def _own_registry(path: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> Registry | None:
    """Return the default registry of the account that a connection names; None if the answer of AWS decides it."""
    if "account_id" not in own:
        return None
    region = own.get("region_name", common.get("region_name"))
    if region is None:
        remedy = "set region_name as well, or write the registry's host"
        raise ConfigurationError(f"{path}.account_id", "does not name a registry by itself", remedy)
    return Registry.of_account(own["account_id"], region)


def _refuse_other_endpoint(path: str, endpoint_path: str, identity: AwsIdentity) -> None:
    """Refuse an endpoint of AWS that is of another service or region than a connection."""
    service, region = parse_endpoint(identity.endpoint_url or "")
    if service is None or (service == identity.service and identity.region in (region, None)):
        return
    raise ConfigurationError(
        endpoint_path,
        f"is of {service} in {region}, and {path} is of {identity.service} in {identity.region or 'any region'}",
        "set endpoint_url only in the connections that it serves",
    )


def _refuse_two_sources(path: str, given: Mapping[str, object]) -> None:
    if given.keys() >= _SOURCES:
        problem = "contradicts profile_name: each says where the credentials come from"
        raise ConfigurationError(f"{path}aws_conn_id", problem, "leave one of them off")


def _assume_role_kwargs(path: str, value: object) -> str:
    """Check the names alone: botocore checks the values when it assumes the role."""
    arguments = readers.mapping(path, value)
    for name in arguments:
        if name not in ASSUME_ROLE_ARGUMENTS:
            raise readers.unknown_setting(f"{path}.{name}", name, ASSUME_ROLE_ARGUMENTS)
    return readers.to_json(path, {name: argument for name, argument in arguments.items() if argument is not None})


def _extra(path: str, value: object) -> str:
    mapping = readers.mapping(path, value)
    if "reauth" in mapping and mapping["reauth"] is not True:
        remedy = "leave it off: without a new login Docker would reuse an old token of its own configuration"
        raise ConfigurationError(f"{path}.reauth", "is not true", remedy)
    return readers.to_json(path, mapping)


_CONNECTIONS_REMEDY: Final = (
    'write an object such as {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}'
)


def _connections(path: str, value: object) -> dict[str, object]:
    mapping: dict[str, object] = readers.structure(path, value, dict, _CONNECTIONS_REMEDY.removeprefix("write "))
    if not mapping:
        raise ConfigurationError(path, "maps no connection", _CONNECTIONS_REMEDY)
    for conn_id in mapping:
        readers.conn_id(f"{path}.{conn_id}", conn_id)
    return mapping


_FALLBACK_FORM: Final = 'such as {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}'


def _fallback_class(path: str, value: object) -> str:
    name: str = readers.class_name(path, value)
    if name.partition(".")[0] == __name__.partition(".")[0]:
        raise ConfigurationError(path, "is this backend itself", "leave it off, and map its connections in connections")
    return name


def _fallback_backend(path: str, value: object) -> FallbackBackend:
    own = _read(f"{path}.", readers.structure(path, value, dict, f"an object {_FALLBACK_FORM}"), FALLBACK_SETTINGS)
    if "backend" not in own:
        raise ConfigurationError(f"{path}.backend", "is missing", "write the dotted name of the backend's class")
    return FallbackBackend(path, own["backend"], own.get("backend_kwargs", {}))


def _fallback_backends(path: str, value: object) -> tuple[FallbackBackend, ...]:
    listed = readers.structure(path, value, list, f"a list of objects {_FALLBACK_FORM}")
    return tuple(_fallback_backend(f"{path}[{index}]", item) for index, item in enumerate(listed))


#: The arguments of STS AssumeRole. RoleArn is missing because ``role_arn`` sets it; SerialNumber and TokenCode are
#: missing because an MFA code is valid once, for 30 seconds. Source: AWS STS API Reference.
ASSUME_ROLE_ARGUMENTS: Final = (
    "DurationSeconds",
    "ExternalId",
    "Policy",
    "PolicyArns",
    "ProvidedContexts",
    "RoleSessionName",
    "SourceIdentity",
    "Tags",
    "TransitiveTagKeys",
)
AWS_SETTINGS: Final[Mapping[str, Reader]] = {
    "region_name": readers.region,
    "profile_name": readers.text,
    "role_arn": readers.matching(
        r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        "is not the ARN of an IAM role",
        "write one such as arn:aws:iam::123456789012:role/pull-images",
    ),
    "assume_role_kwargs": _assume_role_kwargs,
    "aws_conn_id": readers.conn_id,
    "endpoint_url": readers.matching(
        r"https?://[\w.-]+(:\d{1,5})?(/[\w./-]*)?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?/?",
        "is not the URL of an endpoint",
        "write one such as https://api.ecr.us-east-1.amazonaws.com, without user name or query",
    ),
    "verify": readers.verify,
}
#: docs/configuration.md says what each means.
SETTINGS: Final[Mapping[str, Reader]] = {
    "connections": _connections,
    **AWS_SETTINGS,
    "refresh_before": readers.seconds,
    "cache": readers.one_of("host", "process"),
    "cache_dir": readers.absolute_path,
    "on_error": readers.one_of("raise", "next"),
    "fallback_backends": _fallback_backends,
}
FALLBACK_SETTINGS: Final[Mapping[str, Reader]] = {"backend": _fallback_class, "backend_kwargs": readers.mapping}
CONNECTION_SETTINGS: Final[Mapping[str, Reader]] = {
    "registry": readers.text,
    "account_id": readers.matching(r"\d{12}", "is not an AWS account ID", "write its twelve digits as a string"),
    "extra": _extra,
    **AWS_SETTINGS,
}

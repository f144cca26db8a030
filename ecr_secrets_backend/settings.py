"""The backend's kwargs: read once into frozen settings, or refused with one line that names the fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from ecr_secrets_backend.errors import ConfigurationError, InvalidRegistryError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import Registry, partition_of

DEFAULT_REFRESH_BEFORE_SECONDS: Final = 3600.0


class MappedConnection(NamedTuple):
    """An Airflow connection that the backend serves.

    :param conn_id: its ID in Airflow
    :param host: the registry that Docker logs in to; None: the default registry of the identity's account
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
        connections = [
            _connection(conn_id, f"connections.{conn_id}", shape, common)
            for conn_id, shape in values["connections"].items()
        ]
        _refuse_two_sources("", common)
        for mapped in connections:
            if (aws_conn_id := mapped.identity.aws_conn_id) in values["connections"]:
                own = f"connections.{mapped.conn_id}.aws_conn_id"
                raise ConfigurationError(
                    "aws_conn_id" if common.get("aws_conn_id") == aws_conn_id else own,
                    f"is {_shown(aws_conn_id)}, which is itself served by this backend",
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


#: How a value is read: a function of its path and of what was given, which returns it or raises ConfigurationError.
Reader = Callable[[str, object], Any]


class Setting(NamedTuple):
    """A kwarg: how it is read, and what it means to the user."""

    read: Reader
    meaning: str


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(path, f"is {_kind(value)}", "write a string")
    if not value or value != value.strip() or not value.isprintable():
        raise ConfigurationError(
            path,
            "is empty" if not value.strip() else "has white space around it or a control character in it",
            "write a plain string",
        )
    return value


def _structure(path: str, value: object, kind: type, form: str) -> Any:  # noqa: ANN401 - any JSON value
    """Take a structured value as it is, or as JSON text: Airflow's per-kwarg environment variables are raw strings."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError(path, "is a string that is not JSON", f"write {form}") from None
    if not isinstance(value, kind):
        raise ConfigurationError(path, f"is {_kind(value)}", f"write {form}")
    return value


def _mapping(path: str, value: object) -> dict[str, object]:
    mapping: dict[str, object] = _structure(path, value, dict, "an object")
    for key in mapping:
        _text(f"{path}.{key}", key)
    return mapping


def _one_of(*choices: str) -> Reader:
    def read(path: str, value: object) -> str:
        if value not in choices:
            raise ConfigurationError(path, f"is {_shown(value)}", "write " + " or ".join(map(json.dumps, choices)))
        return str(value)

    return read


def _matching(pattern: str, problem: str, remedy: str) -> Reader:
    compiled: list[re.Pattern[str]] = []  # on demand, because Airflow builds the backend in every process

    def read(path: str, value: object) -> str:
        text = _text(path, value)
        if not compiled:
            compiled.append(re.compile(pattern, re.ASCII))
        if not compiled[0].fullmatch(text):
            raise ConfigurationError(path, problem, remedy)
        return text

    return read


def _region(path: str, value: object) -> str:
    region = _text(path, value)
    if partition_of(region) is None:
        raise ConfigurationError(path, f"is {_shown(region)}, which is no region of AWS", "write one such as us-east-1")
    return region


def _verify(path: str, value: object) -> bool | str:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(path, value)
    raise ConfigurationError(path, f"is {_kind(value)}", "write true, false, or the path of a CA bundle")


def _seconds(path: str, value: object) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigurationError(path, f"is {_shown(value)}", "write a number of seconds, such as 3600")
    return seconds


def _absolute_path(path: str, value: object) -> str:
    text = _text(path, value)
    if not text.startswith("/"):
        raise ConfigurationError(path, f"is {_shown(text)}", "write an absolute path")
    return text


def _assume_role_kwargs(path: str, value: object) -> str:
    """Check the names alone: botocore checks the values when it assumes the role."""
    arguments = _mapping(path, value)
    for name in arguments:
        if name not in ASSUME_ROLE_ARGUMENTS:
            raise _unknown(f"{path}.{name}", name, ASSUME_ROLE_ARGUMENTS)
    return _json(path, {name: argument for name, argument in arguments.items() if argument is not None})


def _extra(path: str, value: object) -> str:
    mapping = _mapping(path, value)
    if "reauth" in mapping and mapping["reauth"] is not True:
        remedy = "leave it off: without a new login Docker would reuse an old token of its own configuration"
        raise ConfigurationError(f"{path}.reauth", "is not true", remedy)
    return _json(path, mapping)


def _json(path: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        raise ConfigurationError(path, "is too deep", "nest it less") from None


_CONNECTIONS_REMEDY: Final = (
    'write an object such as {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}'
)


def _connections(path: str, value: object) -> dict[str, object]:
    mapping: dict[str, object] = _structure(path, value, dict, _CONNECTIONS_REMEDY.removeprefix("write "))
    if not mapping:
        raise ConfigurationError(path, "maps no connection", _CONNECTIONS_REMEDY)
    for conn_id in mapping:
        _conn_id(f"{path}.{conn_id}", conn_id)
    return mapping


#: Source: ``sanitize_conn_id`` in Airflow's ``models/connection.py``.
_conn_id = _matching(
    r"[\w#!()\-.:/\\]{1,250}",
    "is no ID of an Airflow connection",
    "write letters, digits and any of # ! ( ) - . : / \\ _",
)


_FALLBACK_FORM: Final = 'such as {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}'
_dotted_name = _matching(
    r"[^\W\d]\w*(\.[^\W\d]\w*)+",
    "is no dotted name of a class",
    "write one such as airflow.secrets.local_filesystem.LocalFilesystemBackend",
)


def _fallback_class(path: str, value: object) -> str:
    name: str = _dotted_name(path, value)
    if name.partition(".")[0] == __name__.partition(".")[0]:
        raise ConfigurationError(path, "is this backend itself", "leave it off, and map its connections in connections")
    return name


def _fallback_backend(path: str, value: object) -> FallbackBackend:
    own = _read(f"{path}.", _structure(path, value, dict, f"an object {_FALLBACK_FORM}"), FALLBACK_SETTINGS)
    if "backend" not in own:
        raise ConfigurationError(f"{path}.backend", "is missing", "write the dotted name of the backend's class")
    return FallbackBackend(path, own["backend"], own.get("backend_kwargs", {}))


def _fallback_backends(path: str, value: object) -> tuple[FallbackBackend, ...]:
    listed = _structure(path, value, list, f"a list of objects {_FALLBACK_FORM}")
    return tuple(_fallback_backend(f"{path}[{index}]", item) for index, item in enumerate(listed))


#: The arguments of STS AssumeRole, with their meanings. RoleArn is missing because ``role_arn`` sets it; SerialNumber
#: and TokenCode are missing because an MFA code is valid once, for 30 seconds. Source: AWS STS API Reference.
ASSUME_ROLE_ARGUMENTS: Final[Mapping[str, str]] = {
    "DurationSeconds": "the lifetime of the role's session, in seconds",
    "ExternalId": "the external ID that the role's trust policy requires",
    "Policy": "a session policy, as JSON text",
    "PolicyArns": "managed session policies",
    "ProvidedContexts": "trusted contexts",
    "RoleSessionName": "the session's name in CloudTrail",
    "SourceIdentity": "the person or system that uses the session",
    "Tags": "session tags",
    "TransitiveTagKeys": "session tags that role chaining keeps",
}
AWS_SETTINGS: Final[Mapping[str, Setting]] = {
    "region_name": Setting(_region, "the AWS region in which tokens are minted"),
    "profile_name": Setting(_text, "the profile of AWS's shared configuration that holds the credentials"),
    "role_arn": Setting(
        _matching(
            r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
            "is not the ARN of an IAM role",
            "write one such as arn:aws:iam::123456789012:role/pull-images",
        ),
        "the IAM role that is assumed to mint tokens",
    ),
    "assume_role_kwargs": Setting(_assume_role_kwargs, "further arguments of STS AssumeRole, such as ExternalId"),
    "aws_conn_id": Setting(_conn_id, "the Airflow connection that holds the AWS credentials"),
    "endpoint_url": Setting(
        _matching(
            r"https?://[\w.-]+(:\d{1,5})?(/[\w./-]*)?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?/?",
            "is not the URL of an endpoint",
            "write one such as https://api.ecr.us-east-1.amazonaws.com, without user name or query",
        ),
        "the endpoint of ECR's API, where it is not AWS's own",
    ),
    "verify": Setting(_verify, "whether TLS certificates are verified, or the path of a CA bundle to verify them by"),
}
SETTINGS: Final[Mapping[str, Setting]] = {
    "connections": Setting(_connections, "the connection IDs to serve, each with its registry"),
    **AWS_SETTINGS,
    "refresh_before": Setting(_seconds, "seconds before its end at which a token is renewed; at most half of its life"),
    "cache": Setting(
        _one_of("host", "process"), "whether tokens are shared by all processes of this user on this host"
    ),
    "cache_dir": Setting(_absolute_path, "where the host's cache lives"),
    "on_error": Setting(
        _one_of("raise", "next"), "whether a lookup that cannot be served fails or asks the next backend"
    ),
    "fallback_backends": Setting(
        _fallback_backends, "other secrets backends, asked in order for all that is not mapped"
    ),
}
FALLBACK_SETTINGS: Final[Mapping[str, Setting]] = {
    "backend": Setting(_fallback_class, "the dotted name of the backend's class"),
    "backend_kwargs": Setting(_mapping, "what it would have as backend_kwargs of its own"),
}
CONNECTION_SETTINGS: Final[Mapping[str, Setting]] = {
    "registry": Setting(_text, "the registry's host"),
    "account_id": Setting(
        _matching(r"\d{12}", "is not an AWS account ID", "write its twelve digits as a string"),
        "the account whose default registry it is",
    ),
    "extra": Setting(_extra, "the extra of the Airflow connection"),
    **AWS_SETTINGS,
}

#: Each says where the credentials come from.
_SOURCES: Final = frozenset({"profile_name", "aws_conn_id"})
_NO_ROLE: Final = ("has no effect without a role", "set role_arn as well, or leave it off")


def _read(path: str, given: Mapping[str, object], known: Mapping[str, Setting]) -> dict[str, Any]:
    """Read each value that was given by its setting; None stands for "not given", as it does in Airflow."""
    values = {}
    for name, value in given.items():
        setting = known.get(name)
        if setting is None:
            raise _unknown(f"{path}{name}", name, known)
        if value is not None:
            values[name] = setting.read(f"{path}{name}", value)
    return values


def _connection(conn_id: str, path: str, shape: object, common: Mapping[str, Any]) -> MappedConnection:
    if isinstance(shape, str) and not shape.lstrip().startswith("{"):
        own: dict[str, Any] = {"registry": shape}
        place = {"registry": path}
    else:
        form = "a registry's host, or an object"
        own = _read(f"{path}.", _structure(path, shape, dict, form), CONNECTION_SETTINGS)
        place = {}
    registry = _registry_of(own, common, lambda name: place.get(name, f"{path}.{name}"))
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
    return MappedConnection(conn_id, registry.host if registry else None, identity, own.get("extra"))


def _refuse_two_sources(path: str, given: Mapping[str, object]) -> None:
    if given.keys() >= _SOURCES:
        problem = "contradicts profile_name: each says where the credentials come from"
        raise ConfigurationError(f"{path}aws_conn_id", problem, "leave one of them off")


def _registry_of(own: Mapping[str, Any], common: Mapping[str, Any], path: Callable[[str], str]) -> Registry | None:
    """Find a connection's registry, and whether all that is said of it agrees.

    :return: the registry; None where only the answer of AWS will tell the account
    """
    if "registry" in own:
        try:
            registry = Registry.parse(own["registry"])
        except InvalidRegistryError as error:
            raise ConfigurationError(path("registry"), error.problem, error.remedy) from None
        for name, told in (("account_id", registry.account_id), ("region_name", registry.region)):
            if name in own and own[name] != told:
                problem = f"is {_shown(own[name])}, which the registry {registry.host} contradicts"
                raise ConfigurationError(path(name), problem, "leave it off: the registry's host tells it")
        return registry
    if "account_id" not in own:
        return None
    region = own.get("region_name", common.get("region_name"))
    if region is None:
        raise ConfigurationError(
            path("account_id"),
            "does not tell the registry alone",
            "set region_name as well, or write the registry's host",
        )
    return Registry.of_account(own["account_id"], region)


def _unknown(path: str, name: str, known: Mapping[str, object]) -> ConfigurationError:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return ConfigurationError(path, "is no setting", remedy)


def _kind(value: object) -> str:
    """Name a JSON value's type, not the value: it may be a secret in the wrong place."""
    if value is None:
        return "null"
    names = {dict: "object", str: "string", bool: "truth value", int: "number", float: "number"}
    name = names.get(type(value), type(value).__name__)
    return f"an {name}" if name == "object" else f"a {name}"


def _shown(value: object) -> str:
    """Show a value that is no secret, in one line and not at length."""
    try:
        text = json.dumps(value, default=lambda other: f"a {type(other).__name__}")
    except RecursionError:
        text = "too deep"
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - about a line

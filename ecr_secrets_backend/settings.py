"""The backend's kwargs, validated. An error names the kwarg, the problem and the fix in one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import Registry, parse_endpoint, partition_of

#: Receives the path of a kwarg and its value; returns the value to use, or raises ConfigurationError.
Reader = Callable[[str, object], Any]

DEFAULT_REFRESH_BEFORE_SECONDS: Final = 3600.0


class MappedConnection(NamedTuple):
    """An Airflow connection that the backend serves.

    :param host: the registry's host as in image names; None: the default registry of the identity's account
    :param identity: the AWS identity that requests the token
    :param extra: JSON text for the connection's extra, or None
    """

    conn_id: str
    host: str | None
    identity: AwsIdentity
    extra: str | None


@dataclass(frozen=True, slots=True)
class FallbackBackend:
    """Another secrets backend, for lookups of values that are not mapped.

    :param path: its kwarg, such as ``fallback_backends[0]``
    :param kwargs: the arguments of its class, which may hold secrets
    """

    path: str
    backend: str
    kwargs: Mapping[str, object] = field(repr=False)


class Settings(NamedTuple):
    """The backend's kwargs, validated. ``docs/configuration.md`` describes each."""

    connections: Mapping[str, MappedConnection]
    refresh_before: float = DEFAULT_REFRESH_BEFORE_SECONDS
    cache: Literal["host", "process"] = "host"
    cache_dir: str | None = None
    on_error: Literal["raise", "next"] = "raise"
    fallback_backends: tuple[FallbackBackend, ...] = ()

    @classmethod
    def parse(cls, kwargs: Mapping[str, object]) -> Settings:
        """Read the backend's kwargs, without any I/O.

        :param kwargs: as Airflow passes them: JSON values, or the texts of environment variables for single kwargs
        :raises ConfigurationError: a kwarg is not valid
        """
        if not kwargs:
            fix = (
                'Set backend_kwargs = {"connections": {"docker_default": "<registry host>"}}.'
                " If they are set, Airflow cannot parse them as JSON: it has logged a warning and ignores them."
            )
            raise ConfigurationError("backend_kwargs", "are missing", fix)
        values = _read("", kwargs, SETTINGS)
        given = values.pop("connections", None)
        if not given:
            problem = "is missing" if given is None else "maps no connection"
            raise ConfigurationError("connections", problem, f"Write {_CONNECTIONS_FORM}.")
        common = {name: values.pop(name) for name in AWS_SETTINGS if name in values}
        connections = {conn_id: _connection(conn_id, given, common) for conn_id in given}
        if "assume_role_kwargs" in common and not any(mapped.identity.role_arn for mapped in connections.values()):
            raise ConfigurationError("assume_role_kwargs", *_NO_ROLE)
        return cls(connections, **values)


_CONNECTIONS_FORM: Final = 'an object such as {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}'
_FALLBACK_FORM: Final = 'such as {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}'
_CREDENTIAL_SETTINGS: Final = frozenset({"profile_name", "aws_conn_id"})
_NO_ROLE: Final = ("has no effect without a role", "Set role_arn, too, or remove assume_role_kwargs.")


def _read(prefix: str, given: Mapping[str, object], known: Mapping[str, Reader]) -> dict[str, Any]:
    """Read each given value by its name. As in Airflow, None means that the value is not given."""
    values = {}
    for name, value in given.items():
        path = f"{prefix}{name}"
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, list(known), n=1)
            fix = f"Did you mean {close[0]}?" if close else f"Write one of {', '.join(sorted(known))}."
            raise ConfigurationError(path, "is not supported", fix)
        if value is not None:
            values[name] = known[name](path, value)
    if values.keys() >= _CREDENTIAL_SETTINGS:
        problem = "contradicts profile_name: each sets the source of the credentials"
        raise ConfigurationError(f"{prefix}aws_conn_id", problem, "Remove one of them.")
    return values


def _connection(conn_id: str, connections: Mapping[str, object], common: Mapping[str, Any]) -> MappedConnection:
    """Read the value of one connection. Its own AWS settings win over the common ones."""
    path = registry_path = f"connections.{conn_id}"
    _conn_id(path, conn_id)
    value = connections[conn_id]
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        own: dict[str, Any] = {"registry": value}
    else:
        registry_path = f"{path}.registry"
        own = _read(f"{path}.", _mapping(path, value, "a registry's host, or an object"), CONNECTION_SETTINGS)

    def path_of(name: str) -> str:
        return f"{path}.{name}" if name in own else name

    replaced = frozenset() if _CREDENTIAL_SETTINGS.isdisjoint(own) else _CREDENTIAL_SETTINGS
    aws = {name: value for name, value in common.items() if name not in replaced}
    aws |= {name: own[name] for name in AWS_SETTINGS if name in own}
    region = aws.pop("region_name", None)
    if "role_arn" not in aws:
        if "assume_role_kwargs" in own:
            raise ConfigurationError(f"{path}.assume_role_kwargs", *_NO_ROLE)
        aws.pop("assume_role_kwargs", None)
    if aws.get("aws_conn_id") in connections:
        problem = f"is {_describe(aws['aws_conn_id'])}, which this backend itself serves"
        raise ConfigurationError(path_of("aws_conn_id"), problem, "Write the ID of an Airflow connection of type aws.")
    registry = _registry(path, registry_path, own, region)
    if registry is None:
        identity = AwsIdentity("ecr", region, **aws)
    else:
        fips, dual_stack = registry.fips, registry.dual_stack
        identity = AwsIdentity(registry.service, registry.region, use_fips=fips, use_dual_stack=dual_stack, **aws)
    service, region = parse_endpoint(identity.endpoint_url or "")
    if service and (service != identity.service or identity.region not in (region, None)):
        needed = f"{identity.service} in {identity.region or 'any region'}"
        problem = f"is an endpoint of {service} in {region}, but {path} needs {needed}"
        fix = "Set endpoint_url only in the connections that it serves."
        raise ConfigurationError(path_of("endpoint_url"), problem, fix)
    return MappedConnection(conn_id, registry.host if registry else None, identity, own.get("extra"))


def _registry(path: str, registry_path: str, own: Mapping[str, Any], region: str | None) -> Registry | None:
    """Return a connection's registry; None: the default registry of the account, which AWS returns with the token.

    :param own: the connection's own settings; a region_name among them allows any host
    :param region: the connection's own region, or the common one
    """
    if "registry" not in own:
        if "account_id" not in own:
            return None
        if region is None:
            fix = "Set region_name, too, or write the registry's host."
            raise ConfigurationError(f"{path}.account_id", "needs a region", fix)
        return Registry.of_account(own["account_id"], region)
    registry = Registry.parse(own["registry"], registry_path, own.get("region_name"))
    for name, value in (("account_id", registry.account_id), ("region_name", registry.region)):
        if own.get(name, value) != value:
            problem = f"is {_describe(own[name])}, which contradicts the registry {registry.host}"
            raise ConfigurationError(f"{path}.{name}", problem, "Remove it: the registry's host determines it.")
    return registry


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(path, f"is {_type_of(value)}", "Write a string.")
    if not value or value != value.strip() or not value.isprintable():
        problem = "has white space around it or a control character in it" if value.strip() else "is empty"
        raise ConfigurationError(path, problem, "Write a plain string.")
    return value


def _matching(pattern: str, problem: str, fix: str, path: str, value: object) -> str:
    """Read a string that matches all of a regular expression. The string replaces ``{}`` in the problem."""
    text = _text(path, value)
    if not re.fullmatch(pattern, text, re.ASCII):  # not compiled at import, which each Airflow process pays for
        raise ConfigurationError(path, problem.format(_describe(text)), fix)
    return text


def _region(path: str, value: object) -> str:
    name = _text(path, value)
    if partition_of(name) is None:
        problem = f"is {_describe(name)}, which is not an AWS region"
        raise ConfigurationError(path, problem, "Write a region such as us-east-1.")
    return name


def _verify(path: str, value: object) -> bool | str:
    if not isinstance(value, (bool, str)):
        raise ConfigurationError(path, f"is {_type_of(value)}", "Write true, false, or the path of a CA bundle.")
    if str(value).lower() in {"true", "false"}:
        return str(value).lower() == "true"
    return _text(path, value)


def _seconds(path: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigurationError(path, f"is {_describe(value)}", "Write a number of seconds, such as 3600.")
    return number


def _structure(kind: type, form: str, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Read a list or an object, or its JSON text: Airflow passes an environment variable for a kwarg as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError(path, "is a string that is not JSON", f"Write {form}.") from None
    if not isinstance(value, kind):
        raise ConfigurationError(path, f"is {_type_of(value)}", f"Write {form}.")
    return value


def _mapping(path: str, value: object, form: str = "an object") -> dict[str, Any]:
    given: dict[str, Any] = _structure(dict, form, path, value)
    for key in given:
        _text(f"{path}.{key}", key)
    return given


def _assume_role_kwargs(path: str, value: object) -> str:
    return _to_json(path, _read(f"{path}.", _mapping(path, value), ASSUME_ROLE_ARGUMENTS))


def _extra(path: str, value: object) -> str:
    given = _mapping(path, value)
    if given.get("reauth", True) is not True:
        fix = "Remove it: without a new login, Docker would use an old token of its own configuration."
        raise ConfigurationError(f"{path}.reauth", "is not true", fix)
    return _to_json(path, given)


def _fallback_backends(path: str, value: object) -> tuple[FallbackBackend, ...]:
    items = _structure(list, f"a list of objects {_FALLBACK_FORM}", path, value)
    return tuple(_fallback_backend(f"{path}[{index}]", item) for index, item in enumerate(items))


def _fallback_backend(path: str, value: object) -> FallbackBackend:
    own = _read(f"{path}.", _mapping(path, value, f"an object {_FALLBACK_FORM}"), FALLBACK_SETTINGS)
    if "backend" not in own:
        raise ConfigurationError(f"{path}.backend", "is missing", "Write the dotted name of the backend's class.")
    if own["backend"].partition(".")[0] == __name__.partition(".")[0]:
        fix = "Remove it, and map its connections in connections."
        raise ConfigurationError(f"{path}.backend", "is this backend itself", fix)
    return FallbackBackend(path, own["backend"], own.get("backend_kwargs", {}))


def _to_json(path: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        raise ConfigurationError(path, "is nested too deeply", "Write a flatter object.") from None


def _type_of(value: object) -> str:
    """Return the JSON type of a value, for a message that must not show the value: it may be a misplaced secret."""
    names = {dict: "an object", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _describe(value: object) -> str:
    """Return a string, number or boolean that is not a secret, in at most 60 characters; otherwise, its type."""
    line = json.dumps(value) if isinstance(value, (str, int, float)) else _type_of(value)
    return line if len(line) <= 60 else f"{line[:57]}..."  # noqa: PLR2004 - the length of half a line


#: Source: ``sanitize_conn_id`` in Airflow's ``models/connection.py``.
_conn_id: Final = partial(
    _matching,
    r"[\w#!()\-.:/\\]{1,250}",
    "is not the ID of an Airflow connection",
    "Write letters, digits and any of # ! ( ) - . : / \\ _ only.",
)
#: The arguments of STS AssumeRole; botocore checks their values. ``role_arn`` sets RoleArn. SerialNumber and TokenCode
#: are not supported, because an MFA code is valid once, for 30 seconds. Source: AWS STS API Reference.
ASSUME_ROLE_ARGUMENTS: Final[Mapping[str, Reader]] = dict.fromkeys(
    (
        *("DurationSeconds", "ExternalId", "Policy", "PolicyArns", "ProvidedContexts"),
        *("RoleSessionName", "SourceIdentity", "Tags", "TransitiveTagKeys"),
    ),
    lambda _, value: value,
)
AWS_SETTINGS: Final[Mapping[str, Reader]] = {
    "region_name": _region,
    "profile_name": _text,
    "role_arn": partial(
        _matching,
        r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        "is not the ARN of an IAM role",
        "Write an ARN such as arn:aws:iam::123456789012:role/pull-images.",
    ),
    "assume_role_kwargs": _assume_role_kwargs,
    "aws_conn_id": _conn_id,
    "endpoint_url": partial(
        _matching,
        r"https?://[\w.-]+(:\d{1,5})?(/[\w./-]*)?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?/?",
        "is not the URL of an endpoint",
        "Write a URL such as https://api.ecr.us-east-1.amazonaws.com, without a user name and a query.",
    ),
    "verify": _verify,
}
SETTINGS: Final[Mapping[str, Reader]] = {
    "connections": partial(_mapping, form=_CONNECTIONS_FORM),
    **AWS_SETTINGS,
    "refresh_before": _seconds,
    "cache": partial(_matching, "host|process", "is {}", 'Write "host" or "process".'),
    "cache_dir": partial(_matching, "/.*", "is {}", "Write an absolute path."),
    "on_error": partial(_matching, "raise|next", "is {}", 'Write "raise" or "next".'),
    "fallback_backends": _fallback_backends,
}
FALLBACK_SETTINGS: Final[Mapping[str, Reader]] = {
    "backend": partial(
        _matching,
        r"[^\W\d]\w*(\.[^\W\d]\w*)+",
        "is not the dotted name of a class",
        "Write a name such as airflow.secrets.local_filesystem.LocalFilesystemBackend.",
    ),
    "backend_kwargs": _mapping,
}
CONNECTION_SETTINGS: Final[Mapping[str, Reader]] = {
    "registry": _text,
    "account_id": partial(_matching, r"\d{12}", "is not an AWS account ID", "Write its twelve digits as a string."),
    "extra": _extra,
    **AWS_SETTINGS,
}

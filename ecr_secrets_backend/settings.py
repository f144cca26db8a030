"""The backend's kwargs: read once into frozen settings, or refused with one line that names the fault."""

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

#: Reads a value: a function of its path and of what was given, which returns it or raises ConfigurationError.
Reader = Callable[[str, object], Any]

DEFAULT_REFRESH_BEFORE_SECONDS: Final = 3600.0


class MappedConnection(NamedTuple):
    """An Airflow connection that the backend serves.

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
    refresh_before: float = DEFAULT_REFRESH_BEFORE_SECONDS
    cache: Literal["host", "process"] = "host"
    cache_dir: str | None = None
    on_error: Literal["raise", "next"] = "raise"
    fallback_backends: tuple[FallbackBackend, ...] = ()

    @classmethod
    def parse(cls, kwargs: Mapping[str, object]) -> Settings:
        """Read the backend's kwargs; nothing else is read, opened or called.

        :param kwargs: as Airflow passes them: JSON values, or raw strings from per-kwarg environment variables
        :raises ConfigurationError: one of the kwargs cannot be right
        """
        if not kwargs:
            fix = (
                'set backend_kwargs = {"connections": {"docker_default": "<registry host>"}}'
                "; if they are set, Airflow could not parse them as JSON and has dropped them with a warning"
            )
            raise ConfigurationError("backend_kwargs", "are missing", fix)
        values = _read("", kwargs, SETTINGS)
        shapes = values.pop("connections", None)
        if not shapes:
            problem = "is missing" if shapes is None else "maps no connection"
            raise ConfigurationError("connections", problem, f"write {_CONNECTIONS_FORM}")
        common = {name: values.pop(name) for name in AWS_SETTINGS if name in values}
        connections = {conn_id: _connection(conn_id, shapes, common) for conn_id in shapes}
        if "assume_role_kwargs" in common and not any(mapped.identity.role_arn for mapped in connections.values()):
            raise ConfigurationError("assume_role_kwargs", *_NO_ROLE)
        return cls(connections, **values)


_CONNECTIONS_FORM: Final = 'an object such as {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}'
_FALLBACK_FORM: Final = 'such as {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}'
#: Each says where the credentials come from.
_SOURCES: Final = frozenset({"profile_name", "aws_conn_id"})
_NO_ROLE: Final = ("has no effect without a role", "set role_arn as well, or leave it off")


def _read(prefix: str, given: Mapping[str, object], known: Mapping[str, Reader]) -> dict[str, Any]:
    """Read each value that was given by its setting; None stands for "not given", as it does in Airflow."""
    values = {}
    for name, value in given.items():
        path = f"{prefix}{name}"
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, list(known), n=1)
            fix = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise ConfigurationError(path, "is not supported", fix)
        if value is not None:
            values[name] = known[name](path, value)
    if values.keys() >= _SOURCES:
        problem = "contradicts profile_name: each says where the credentials come from"
        raise ConfigurationError(f"{prefix}aws_conn_id", problem, "leave one of them off")
    return values


def _connection(conn_id: str, shapes: Mapping[str, object], common: Mapping[str, Any]) -> MappedConnection:
    """Read a connection by its shape; its own AWS settings win over the common ones."""
    path = f"connections.{conn_id}"
    _conn_id(path, conn_id)
    shape = shapes[conn_id]
    if isinstance(shape, str) and not shape.lstrip().startswith("{"):
        registry_path = path
        own: dict[str, Any] = {"registry": shape}
    else:
        registry_path = f"{path}.registry"
        own = _read(f"{path}.", _mapping(path, shape, "a registry's host, or an object"), CONNECTION_SETTINGS)

    def path_of(name: str) -> str:
        return f"{path}.{name}" if name in own else name

    has_source = not _SOURCES.isdisjoint(own)
    aws = {name: value for name, value in common.items() if not (has_source and name in _SOURCES)}
    aws |= {name: own[name] for name in AWS_SETTINGS if name in own}
    region = aws.pop("region_name", None)
    if "role_arn" not in aws:
        if "assume_role_kwargs" in own:
            raise ConfigurationError(f"{path}.assume_role_kwargs", *_NO_ROLE)
        aws.pop("assume_role_kwargs", None)
    if aws.get("aws_conn_id") in shapes:
        problem = f"is {_shown(aws['aws_conn_id'])}, which is itself served by this backend"
        raise ConfigurationError(path_of("aws_conn_id"), problem, "name an Airflow connection of type aws")
    registry = _registry(path, registry_path, own, region)
    if registry is None:
        identity = AwsIdentity("ecr", region, **aws)
    else:
        fips, dual_stack = registry.fips, registry.dual_stack
        identity = AwsIdentity(registry.service, registry.region, use_fips=fips, use_dual_stack=dual_stack, **aws)
    service, region = parse_endpoint(identity.endpoint_url or "")
    if service and (service != identity.service or identity.region not in (region, None)):
        mine = f"{identity.service} in {identity.region or 'any region'}"
        problem = f"is of {service} in {region}, and {path} is of {mine}"
        fix = "set endpoint_url only in the connections that it serves"
        raise ConfigurationError(path_of("endpoint_url"), problem, fix)
    return MappedConnection(conn_id, registry.host if registry else None, identity, own.get("extra"))


def _registry(path: str, registry_path: str, own: Mapping[str, Any], region: str | None) -> Registry | None:
    """Return the registry that a connection names; None if the answer of AWS decides it.

    :param region: the connection's own, which allows any name of a registry, or the common one
    """
    if "registry" not in own:
        if "account_id" not in own:
            return None
        if region is None:
            fix = "set region_name as well, or write the registry's host"
            raise ConfigurationError(f"{path}.account_id", "does not name a registry by itself", fix)
        return Registry.of_account(own["account_id"], region)
    registry = Registry.parse(own["registry"], registry_path, own.get("region_name"))
    for name, value in (("account_id", registry.account_id), ("region_name", registry.region)):
        if own.get(name, value) != value:
            problem = f"is {_shown(own[name])}, which the registry {registry.host} contradicts"
            raise ConfigurationError(f"{path}.{name}", problem, "leave it off: the registry's host decides it")
    return registry


def _text(path: str, value: object) -> str:
    """Read a plain string."""
    if not isinstance(value, str):
        raise ConfigurationError(path, f"is {_kind_of(value)}", "write a string")
    if not value or value != value.strip() or not value.isprintable():
        problem = "has white space around it or a control character in it" if value.strip() else "is empty"
        raise ConfigurationError(path, problem, "write a plain string")
    return value


def _matching(pattern: str, problem: str, fix: str, path: str, value: object) -> str:
    """Read a string that matches a regular expression as a whole; the problem may name the value, as ``{}``."""
    given = _text(path, value)
    if not re.fullmatch(pattern, given, re.ASCII):  # compiled at need: Airflow builds the backend in every process
        raise ConfigurationError(path, problem.format(_shown(given)), fix)
    return given


def _choice(choices: tuple[str, ...], path: str, value: object) -> str:
    if value not in choices:
        raise ConfigurationError(path, f"is {_shown(value)}", "write " + " or ".join(map(json.dumps, choices)))
    return str(value)


def _region(path: str, value: object) -> str:
    name = _text(path, value)
    if partition_of(name) is None:
        problem = f"is {_shown(name)}, which is not a region of AWS"
        raise ConfigurationError(path, problem, "write one such as us-east-1")
    return name


def _verify(path: str, value: object) -> bool | str:
    """Read boto3's ``verify``."""
    if not isinstance(value, (bool, str)):
        raise ConfigurationError(path, f"is {_kind_of(value)}", "write true, false, or the path of a CA bundle")
    if str(value).lower() in {"true", "false"}:
        return str(value).lower() == "true"
    return _text(path, value)


def _seconds(path: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigurationError(path, f"is {_shown(value)}", "write a number of seconds, such as 3600")
    return number


def _structure(kind: type, form: str, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Read a structured value, as it is or as JSON text: Airflow's per-kwarg environment variables are raw strings."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError(path, "is a string that is not JSON", f"write {form}") from None
    if not isinstance(value, kind):
        raise ConfigurationError(path, f"is {_kind_of(value)}", f"write {form}")
    return value


def _mapping(path: str, value: object, form: str = "an object") -> dict[str, Any]:
    """Read an object, whose keys are plain strings."""
    given: dict[str, Any] = _structure(dict, form, path, value)
    for key in given:
        _text(f"{path}.{key}", key)
    return given


def _assume_role_kwargs(path: str, value: object) -> str:
    return _to_json(path, _read(f"{path}.", _mapping(path, value), ASSUME_ROLE_ARGUMENTS))


def _extra(path: str, value: object) -> str:
    given = _mapping(path, value)
    if given.get("reauth", True) is not True:
        fix = "leave it off: without a new login Docker would reuse an old token of its own configuration"
        raise ConfigurationError(f"{path}.reauth", "is not true", fix)
    return _to_json(path, given)


def _fallback_backends(path: str, value: object) -> tuple[FallbackBackend, ...]:
    items = _structure(list, f"a list of objects {_FALLBACK_FORM}", path, value)
    return tuple(_fallback_backend(f"{path}[{index}]", item) for index, item in enumerate(items))


def _fallback_backend(path: str, value: object) -> FallbackBackend:
    own = _read(f"{path}.", _mapping(path, value, f"an object {_FALLBACK_FORM}"), FALLBACK_SETTINGS)
    if "backend" not in own:
        raise ConfigurationError(f"{path}.backend", "is missing", "write the dotted name of the backend's class")
    if own["backend"].partition(".")[0] == __name__.partition(".")[0]:
        fix = "leave it off, and map its connections in connections"
        raise ConfigurationError(f"{path}.backend", "is this backend itself", fix)
    return FallbackBackend(path, own["backend"], own.get("backend_kwargs", {}))


def _to_json(path: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        raise ConfigurationError(path, "is too deep", "nest it less") from None


def _kind_of(value: object) -> str:
    """Return the type of a JSON value, not the value: it may be a secret in the wrong place."""
    names = {dict: "an object", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _shown(value: object) -> str:
    """Return a value that is not a secret, in one line and not at length."""
    try:
        line = json.dumps(value, default=_kind_of)
    except RecursionError:
        line = "too deep"
    return line if len(line) <= 60 else f"{line[:57]}..."  # noqa: PLR2004 - about a line


#: Source: ``sanitize_conn_id`` in Airflow's ``models/connection.py``.
_conn_id: Final = partial(
    _matching,
    r"[\w#!()\-.:/\\]{1,250}",
    "is not the ID of an Airflow connection",
    "write letters, digits and any of # ! ( ) - . : / \\ _",
)
#: The arguments of STS AssumeRole, whose values botocore checks. RoleArn is missing because ``role_arn`` sets it;
#: SerialNumber and TokenCode are missing because an MFA code is valid once, for 30 seconds. Source: AWS STS API
#: Reference.
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
        "write one such as arn:aws:iam::123456789012:role/pull-images",
    ),
    "assume_role_kwargs": _assume_role_kwargs,
    "aws_conn_id": _conn_id,
    "endpoint_url": partial(
        _matching,
        r"https?://[\w.-]+(:\d{1,5})?(/[\w./-]*)?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?/?",
        "is not the URL of an endpoint",
        "write one such as https://api.ecr.us-east-1.amazonaws.com, without user name or query",
    ),
    "verify": _verify,
}
#: docs/configuration.md says what each means.
SETTINGS: Final[Mapping[str, Reader]] = {
    "connections": partial(_mapping, form=_CONNECTIONS_FORM),
    **AWS_SETTINGS,
    "refresh_before": _seconds,
    "cache": partial(_choice, ("host", "process")),
    "cache_dir": partial(_matching, r"/.*", "is {}", "write an absolute path"),
    "on_error": partial(_choice, ("raise", "next")),
    "fallback_backends": _fallback_backends,
}
FALLBACK_SETTINGS: Final[Mapping[str, Reader]] = {
    "backend": partial(
        _matching,
        r"[^\W\d]\w*(\.[^\W\d]\w*)+",
        "is not the dotted name of a class",
        "write one such as airflow.secrets.local_filesystem.LocalFilesystemBackend",
    ),
    "backend_kwargs": _mapping,
}
CONNECTION_SETTINGS: Final[Mapping[str, Reader]] = {
    "registry": _text,
    "account_id": partial(_matching, r"\d{12}", "is not an AWS account ID", "write its twelve digits as a string"),
    "extra": _extra,
    **AWS_SETTINGS,
}

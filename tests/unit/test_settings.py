from __future__ import annotations

import json
from typing import Any

import pytest

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.settings import ASSUME_ROLE_ARGUMENTS, SETTINGS, FallbackBackend, MappedConnection, Settings

A = "123456789012"
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"
US_ENDPOINT = "https://vpce-0123-abcd.api.ecr.us-east-1.vpce.amazonaws.com"
ROLE = "arn:aws:iam::210987654321:role/pull"


def parse_one(value: object, **common: object) -> MappedConnection:
    return Settings.parse({"connections": {"docker_default": value}, **common}).connections["docker_default"]


@pytest.mark.parametrize(
    ("value", "common", "host", "region"),
    [
        (f"https://{HOST}/", {}, HOST, "us-east-1"),
        (HOST, {"region_name": "eu-west-1"}, HOST, "us-east-1"),
        ({"registry": HOST, "account_id": A, "region_name": "us-east-1"}, {}, HOST, "us-east-1"),
        ({"account_id": A, "region_name": "us-east-1"}, {}, HOST, "us-east-1"),
        ({"account_id": A}, {"region_name": "us-east-1"}, HOST, "us-east-1"),
        ({"region_name": "eu-west-1"}, {}, None, "eu-west-1"),
        ({}, {"region_name": "eu-west-1"}, None, "eu-west-1"),
        ({}, {"endpoint_url": US_ENDPOINT}, None, None),
        (f'\n  {{"registry": "{HOST}"}}\n', {}, HOST, "us-east-1"),
        ("public.ecr.aws", {"region_name": "eu-west-1"}, "public.ecr.aws", "us-east-1"),
        ({"registry": "b.c:84", "region_name": "eu-west-1"}, {"region_name": "us-east-1"}, "b.c:84", "eu-west-1"),
    ],
)
def test_a_connection_may_be_a_host_or_an_object_and_determines_the_region(
    value: object, common: dict[str, object], host: str | None, region: str | None
) -> None:
    """The region of a host wins over a common one. JSON text is accepted, too."""
    mapped = parse_one(value, **common)

    assert (mapped.host, mapped.identity.region) == (host, region)
    assert mapped.identity.service == ("ecr-public" if host == "public.ecr.aws" else "ecr")


@pytest.mark.parametrize(("value", "expected"), [(True, True), ("TRUE", True), (False, False), ("False", False)])
def test_a_boolean_may_be_text(value: object, expected: bool) -> None:
    """An environment variable for a single kwarg has text."""
    assert parse_one(HOST, verify=value).identity.verify is expected


def test_each_kwarg_sets_its_own_setting_and_may_be_json_text() -> None:
    """Airflow passes an environment variable for a single kwarg as text."""
    arguments = {name: 900 if name == "DurationSeconds" else [{"a": "b"}] for name in sorted(ASSUME_ROLE_ARGUMENTS)}
    aws = {
        "profile_name": "prod",
        "role_arn": "arn:aws-us-gov:iam::210987654321:role/a/path/with+=,.@-signs",
        "endpoint_url": "https://ecr.example:8443/path",
        "verify": "/ca",
    }
    kwargs: dict[str, Any] = {
        "connections": {"a": {"region_name": "eu-west-1", "extra": {"email": "a@b.c", "reauth": True}}},
        "assume_role_kwargs": arguments,
        "refresh_before": 0,
        "cache": "process",
        "cache_dir": "/var/cache/tokens",
        "on_error": "next",
        "fallback_backends": [{"backend": "a.B"}, {"backend": "c.d.E", "backend_kwargs": {"f": [1]}}],
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in kwargs.items()}
    identity = AwsIdentity("ecr", "eu-west-1", assume_role_kwargs=json.dumps(arguments), **aws)  # type: ignore[arg-type]
    mapped = MappedConnection("a", None, identity, '{"email": "a@b.c", "reauth": true}')
    fallbacks = (
        FallbackBackend("fallback_backends[0]", "a.B", {}),
        FallbackBackend("fallback_backends[1]", "c.d.E", {"f": [1]}),
    )
    expected = Settings({"a": mapped}, 0.0, "process", "/var/cache/tokens", "next", fallbacks)

    assert [Settings.parse({**kwargs, **aws}), Settings.parse({**texts, **aws})] == [expected] * 2


def test_each_setting_has_a_default() -> None:
    """Renewal is an hour ahead, the host shares tokens, and a failed lookup raises."""
    settings = Settings.parse({"connections": {"docker_default": HOST}})

    assert settings == Settings(settings.connections, 3600, "host", None, "raise", ())


@pytest.mark.parametrize(
    ("own", "common", "source"),
    [
        ({}, {"aws_conn_id": "aws_ecr"}, (None, "aws_ecr")),
        ({"aws_conn_id": "own"}, {"aws_conn_id": "common"}, (None, "own")),
        ({"aws_conn_id": "own"}, {"profile_name": "common"}, (None, "own")),
        ({"profile_name": "own"}, {"aws_conn_id": "common"}, ("own", None)),
        ({"aws_conn_id": None}, {"profile_name": "common"}, ("common", None)),
    ],
)
def test_a_connections_own_source_of_credentials_replaces_the_common_one(
    own: dict[str, Any], common: dict[str, Any], source: tuple[str | None, str | None]
) -> None:
    """A profile and an Airflow connection replace each other. An own setting replaces the common one of its name."""
    common = {**common, "role_arn": f"{ROLE}-2", "endpoint_url": "http://[::1]:4566/"}
    identity = parse_one({"registry": HOST, "role_arn": ROLE, **own}, **common).identity

    assert (identity.profile_name, identity.aws_conn_id) == source
    assert (identity.role_arn, identity.endpoint_url) == (ROLE, "http://[::1]:4566/")


def test_common_assume_role_kwargs_serve_only_the_connections_with_a_role() -> None:
    """Their order does not matter: two processes with the same configuration share a token."""
    arguments = {"Policy": "{}", "ExternalId": "an-id", "SourceIdentity": None}
    connections = {"a": {"registry": HOST, "role_arn": ROLE}, "b": HOST}
    settings = Settings.parse({"connections": connections, "assume_role_kwargs": arguments})

    assert settings.connections["a"].identity.assume_role_kwargs == '{"ExternalId": "an-id", "Policy": "{}"}'
    assert settings.connections["b"] == parse_one(HOST)._replace(conn_id="b")


def test_accounts_share_an_identity() -> None:
    """One token is valid for the registries of all accounts in a region. None means not given, as in Airflow."""
    one = parse_one(f"{A[::-1]}.dkr.ecr.us-east-1.amazonaws.com", profile_name=None)
    other = parse_one({"region_name": "us-east-1", "role_arn": None})

    assert one.identity == other.identity


@pytest.mark.parametrize(("label", "kind"), [("dkr.ecr-fips", (True, False)), ("dkr-ecr-fips", (True, True))])
def test_the_host_of_a_registry_determines_its_own_endpoint_only(label: str, kind: tuple[bool, bool]) -> None:
    """The plain registries of the region keep theirs."""
    domain = "on.aws" if kind[1] else "amazonaws.com"
    settings = Settings.parse({"connections": {"a": f"{A}.{label}.us-east-1.{domain}", "b": HOST}})
    kinds = [(mapped.identity.use_fips, mapped.identity.use_dual_stack) for mapped in settings.connections.values()]

    assert kinds == [kind, (False, False)]


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


#: The value of a connection, the rest of the path, and a part of the message.
CONNECTION_FAULTS: list[tuple[object, str, str]] = [
    (None, "", "is null. Write a registry's host, or an object."),
    ("localhost:5000", "", '{"registry": "localhost:5000", "region_name": '),
    ({"registry": "registry", "region_name": "us-east-1"}, ".registry", "with a dot or a port"),
    ({"registry": f"{HOST}:8443", "region_name": "eu-west-1"}, ".region_name", "contradicts"),
    ({"registry": HOST, "account_id": A[::-1]}, ".account_id", "contradicts"),
    ({"account_id": A}, ".account_id", "needs a region. Set region_name"),
    ({"account_id": 123456789012, "region_name": "us-east-1"}, ".account_id", "a string"),
    ({"account_id": "12", "region_name": "us-east-1"}, ".account_id", "twelve"),
    ({"regoin_name": "eu-west-1"}, ".regoin_name", "Did you mean region_name?"),
    ({"region_name": "eu-wset-1x"}, ".region_name", 'is "eu-wset-1x", which is not an AWS region'),
    ({"region_name": " eu-west-1"}, ".region_name", "white space"),
    ({"region_name": " "}, ".region_name", "is empty"),
    ({"profile_name": "a\tb"}, ".profile_name", "a control character"),
    ({"region_name": "eu-west-1", "endpoint_url": US_ENDPOINT}, ".endpoint_url", "connections.a needs ecr in eu-west"),
    ({"endpoint_url": "https://sts.us-east-1.amazonaws.com"}, ".endpoint_url", "connections.a needs ecr in any region"),
    ({"extra": []}, ".extra", "is a list"),
    ({"extra": {"k": deep()}}, ".extra", "nested too deeply"),
    ({"extra": {"reauth": 1}}, ".extra.reauth", "is not true"),
    ({"refresh_before": 5}, ".refresh_before", "is not supported"),
    ({"assume_role_kwargs": {}}, ".assume_role_kwargs", "without a role"),
    ({"aws_conn_id": "b", "profile_name": "c"}, ".aws_conn_id", "contradicts profile_name"),
]
#: The value of a common kwarg, beside a valid connection and role, the rest of the path, and a part of the message.
COMMON_FAULTS: list[tuple[str, object, str, str]] = [
    ("profile_name", {}, "", "is an object"),
    ("assume_role_kwargs", {"ExternalID": "an-id"}, ".ExternalID", "Did you mean ExternalId?"),
    ("assume_role_kwargs", {"RoleArn": ROLE}, ".RoleArn", "is not supported"),
    ("assume_role_kwargs", {"SerialNumber": "arn:aws:iam::123456789012:mfa/me"}, ".SerialNumber", "is not supported"),
    ("assume_role_kwargs", {"TokenCode": "123456"}, ".TokenCode", "is not supported"),
    ("role_arn", "arn:aws:iam::210987654321:user/x", "", "ARN of an IAM role"),
    ("endpoint_url", "ecr.example", "", "URL of an endpoint"),
    ("endpoint_url", "https://me:s3cret@ecr.example", "", "user name"),
    ("verify", 1, "", "is a number. Write true, false, or the path"),
    ("refresh_before", -1, "", "is -1"),
    ("refresh_before", True, "", "is true"),
    ("refresh_before", "soon", "", "number of seconds"),
    ("refresh_before", 10**400, "", "number of seconds"),
    ("refresh_before", "1e999", "", "number of seconds"),
    ("refresh_before", deep(), "", "is a list"),
    ("cache", "redis", "", 'is "redis". Write "host" or "process".'),
    ("cache", "hosts", "", 'is "hosts"'),
    ("xyz", 1, "", f"Write one of {', '.join(sorted(SETTINGS))}."),
    ("cache_dir", "cache", "", 'is "cache". Write an absolute path.'),
    ("on_error", "ignore", "", '"raise" or "next"'),
    ("aws_conn_id", "aws default", "", "is not the ID of an Airflow connection"),
    ("aws_conn_id", "a", "", 'is "a", which this backend itself serves'),
    ("fallback_backends", '{"backend": "a.B"}', "", "is an object. Write a list of objects"),
    ("fallback_backends", [{"backend": "a.B"}, "a.B"], "[1]", "is not JSON. Write an object such as {"),
    ("fallback_backends", [{"backend": None}], "[0].backend", "is missing"),
    ("fallback_backends", [{"backend": "a..B"}], "[0].backend", "is not the dotted name of a class"),
    ("fallback_backends", [{"backend": "ecr_secrets_backend.X"}], "[0].backend", "is this backend itself"),
    ("fallback_backends", [{"backend": "a.B", "kwargs": {}}], "[0].kwargs", "Did you mean backend_kwargs?"),
    ("fallback_backends", [{"backend": "a.B", "backend_kwargs": {"": 1}}], "[0].backend_kwargs.", "is empty"),
]
MAPPED = {"connections": {"a": HOST}}
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "backend_kwargs", "Airflow cannot parse them as JSON"),
    ({"refresh_before": 60}, "connections", "is missing"),
    ({"connections": {}}, "connections", "maps no connection"),
    ({"connections": "[" * 100_000}, "connections", "is not JSON. Write an object such as"),
    ({"connection": {"a": HOST}}, "connection", "Did you mean connections?"),
    ({"connections": {"a b": HOST}}, "connections.a b", "is not the ID of an Airflow connection"),
    (
        {"connections": {"a": {"registry": "ecr.example.com"}}, "region_name": "us-east-1"},
        "connections.a.registry",
        '{"registry": "ecr.example.com", "region_name": ',
    ),
    (
        {"connections": {"a": HOST, "b": "public.ecr.aws"}, "endpoint_url": US_ENDPOINT},
        "endpoint_url",
        "is an endpoint of ecr in us-east-1, but connections.b needs ecr-public in us-east-1",
    ),
    (
        {"connections": {"a": {"aws_conn_id": "b"}, "b": HOST}, "aws_conn_id": "c"},
        "connections.a.aws_conn_id",
        'is "b", which this backend itself serves',
    ),
    ({**MAPPED, "assume_role_kwargs": {}}, "assume_role_kwargs", "without a role"),
    ({**MAPPED, "aws_conn_id": "b", "profile_name": "c"}, "aws_conn_id", "contradicts profile_name"),
    *(({"connections": {"a": value}}, f"connections.a{path}", part) for value, path, part in CONNECTION_FAULTS),
    *(({**MAPPED, "role_arn": ROLE, name: value}, f"{name}{path}", part) for name, value, path, part in COMMON_FAULTS),
]


@pytest.mark.parametrize(("kwargs", "path", "part"), FAULTS, ids=[f"{path}: {part}" for _, path, part in FAULTS])
def test_a_refusal_names_the_kwarg_the_problem_and_the_fix_in_one_line(
    kwargs: dict[str, Any], path: str, part: str
) -> None:
    """It does not quote a URL, which may have a password."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse(kwargs)

    assert caught.value.path == path
    assert caught.value.fix.endswith((".", "?"))
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert part in str(caught.value)
    assert str(caught.value).startswith(path)
    assert str(caught.value).isprintable()
    assert "s3cret" not in str(caught.value)


def test_a_refusal_shows_only_the_beginning_of_a_long_value() -> None:
    with pytest.raises(ConfigurationError, match=r"xxx\.\.\.") as caught:
        parse_one(HOST, cache="x" * 1000)

    assert len(str(caught.value)) < 120

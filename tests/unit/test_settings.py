from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.settings import SETTINGS, FallbackBackend, MappedConnection, Settings

A = "123456789012"
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"
US_ENDPOINT = "https://vpce-0123-abcd.api.ecr.us-east-1.vpce.amazonaws.com"
ROLE = "arn:aws:iam::210987654321:role/pull"


def parse_one(shape: object, **common: object) -> MappedConnection:
    return Settings.parse({"connections": {"docker_default": shape}, **common}).connections["docker_default"]


@pytest.mark.parametrize(
    ("shape", "common", "host", "region"),
    [
        (HOST, {}, HOST, "us-east-1"),
        (f"https://{HOST}/", {}, HOST, "us-east-1"),
        ({"registry": HOST}, {}, HOST, "us-east-1"),
        ({"registry": HOST, "account_id": A, "region_name": "us-east-1"}, {}, HOST, "us-east-1"),
        ({"account_id": A, "region_name": "us-east-1"}, {}, HOST, "us-east-1"),
        ({"account_id": A}, {"region_name": "us-east-1"}, HOST, "us-east-1"),
        ({"region_name": "eu-west-1"}, {}, None, "eu-west-1"),
        ({}, {"region_name": "eu-west-1"}, None, "eu-west-1"),
        ({}, {}, None, None),
        (json.dumps({"registry": HOST}), {}, HOST, "us-east-1"),
        (f'\n  {{"registry": "{HOST}"}}\n', {}, HOST, "us-east-1"),
        ("public.ecr.aws", {}, "public.ecr.aws", "us-east-1"),
        (f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn", {}, f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        (HOST, {"region_name": "eu-west-1"}, HOST, "us-east-1"),
        (
            {"registry": "https://ecr.example.com:8443/", "region_name": "eu-west-1"},
            {"region_name": "us-east-1"},
            "ecr.example.com:8443",
            "eu-west-1",
        ),
    ],
)
def test_every_shape_of_a_connection_is_understood(
    shape: object, common: dict[str, object], host: str | None, region: str | None
) -> None:
    """A shape tells the host, where it can, and the region in which its token is minted; a host's own region wins."""
    mapped = parse_one(shape, **common)

    assert (mapped.host, mapped.identity.region) == (host, region)


def test_structured_kwargs_may_be_json_text() -> None:
    """Airflow passes per-kwarg environment variables as raw strings."""
    settings = Settings.parse(
        {
            "connections": json.dumps({"docker_default": {"registry": HOST, "extra": json.dumps({"email": "a@b.c"})}}),
            "role_arn": ROLE,
            "assume_role_kwargs": json.dumps({"ExternalId": "an-id"}),
            "refresh_before": "1800",
            "verify": "False",
            "fallback_backends": json.dumps([{"backend": "a.B", "backend_kwargs": json.dumps({"c": "d"})}]),
        }
    )

    mapped = settings.connections["docker_default"]
    assert mapped.extra == '{"email": "a@b.c"}'
    assert mapped.identity.assume_role_kwargs == '{"ExternalId": "an-id"}'
    assert mapped.identity.verify is False
    assert settings.refresh_before == 1800
    assert settings.fallback_backends == (FallbackBackend("fallback_backends[0]", "a.B", {"c": "d"}),)


def test_every_setting_arrives_as_it_was_written() -> None:
    """None is lost, none is taken for another."""
    arguments = {
        "DurationSeconds": 900,
        "ExternalId": "an:id",
        "Policy": "{}",
        "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/a"}],
        "ProvidedContexts": [{"ContextAssertion": "a", "ProviderArn": "b"}],
        "RoleSessionName": "a-session",
        "SourceIdentity": "me",
        "Tags": [{"Key": "a", "Value": "b"}],
        "TransitiveTagKeys": ["a"],
    }
    aws: dict[str, Any] = {
        "profile_name": "prod",
        "role_arn": ROLE,
        "endpoint_url": "https://ecr.example:8443/path",
        "verify": "/ca",
    }
    settings = Settings.parse(
        {
            "connections": {"a": {"region_name": "eu-west-1", "extra": {"email": "a@b.c", "reauth": True}}},
            "assume_role_kwargs": arguments,
            "refresh_before": 60,
            "cache": "process",
            "cache_dir": "/var/cache/tokens",
            "on_error": "next",
            "fallback_backends": [{"backend": "a.B"}, {"backend": "c.d.E", "backend_kwargs": {"f": [1]}}],
            **aws,
        }
    )

    identity = AwsIdentity("ecr", "eu-west-1", assume_role_kwargs=json.dumps(arguments), **aws)
    mapped = MappedConnection("a", None, identity, '{"email": "a@b.c", "reauth": true}')
    fallbacks = (
        FallbackBackend("fallback_backends[0]", "a.B", {}),
        FallbackBackend("fallback_backends[1]", "c.d.E", {"f": [1]}),
    )
    assert settings == Settings({"a": mapped}, 60.0, "process", "/var/cache/tokens", "next", fallbacks)


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
def test_the_nearer_source_of_credentials_counts(
    own: dict[str, Any], common: dict[str, Any], source: tuple[str | None, str | None]
) -> None:
    """A profile and an Airflow connection are two answers to one question."""
    identity = parse_one({"registry": HOST, **own}, **common).identity

    assert (identity.profile_name, identity.aws_conn_id) == source


def test_a_host_of_ecr_public_has_its_tokens_from_ecr_public() -> None:
    """Which is another service, of one region."""
    identity = parse_one("public.ecr.aws", region_name="eu-west-1").identity

    assert (identity.service, identity.region) == ("ecr-public", "us-east-1")


def test_the_order_in_which_arguments_are_written_makes_no_other_identity() -> None:
    """Two processes that are configured alike share a token."""
    one, two = (
        parse_one(HOST, role_arn=ROLE, assume_role_kwargs=arguments)
        for arguments in ({"ExternalId": "id", "Policy": "{}"}, {"Policy": "{}", "ExternalId": "id"})
    )

    assert one.identity.key == two.identity.key


@pytest.mark.parametrize(
    ("value", "truth"),
    [(True, True), ("true", True), ("TRUE", True), (False, False), ("false", False), ("False", False)],
)
def test_a_truth_value_may_be_text(value: object, truth: bool) -> None:
    """As it comes from an environment variable."""
    assert parse_one(HOST, verify=value).identity.verify is truth


@pytest.mark.parametrize(
    "kwargs",
    [
        {"refresh_before": 0},
        {"role_arn": "arn:aws-us-gov:iam::210987654321:role/a/path/with+=,.@-signs"},
        {"endpoint_url": "http://localhost:4566"},
        {"endpoint_url": "http://[::1]:4566/"},
        {"endpoint_url": US_ENDPOINT},
        {"profile_name": "a profile with spaces, é and {"},
    ],
    ids=str,
)
def test_what_is_just_within_the_bounds_is_taken(kwargs: dict[str, Any]) -> None:
    """No refusal without need."""
    parse_one(HOST, **kwargs)


def test_a_role_may_be_named_by_one_connection_alone() -> None:
    """Common arguments of AssumeRole go with it, and the other connections are as if there were none."""
    settings = Settings.parse(
        {
            "connections": {"a": {"registry": HOST, "role_arn": ROLE}, "b": HOST},
            "assume_role_kwargs": {"ExternalId": "an-id"},
        }
    )

    assert settings.connections["a"].identity.assume_role_kwargs == '{"ExternalId": "an-id"}'
    assert settings.connections["b"] == parse_one(HOST)._replace(conn_id="b")


def test_a_connections_own_aws_setting_wins_over_the_common_one() -> None:
    """Each setting by itself."""
    mapped = parse_one(
        {"registry": HOST, "profile_name": "own"}, profile_name="common", role_arn=ROLE, endpoint_url="http://localhost"
    )

    assert (mapped.identity.profile_name, mapped.identity.role_arn) == ("own", ROLE)
    assert mapped.identity.endpoint_url == "http://localhost"


def test_none_means_not_given() -> None:
    """As in the parameters of Airflow's own hooks."""
    assert parse_one({"registry": HOST, "role_arn": None}, profile_name=None) == parse_one(HOST)
    assert parse_one(HOST, role_arn=ROLE, assume_role_kwargs={"Policy": None}) == parse_one(
        HOST, role_arn=ROLE, assume_role_kwargs={}
    )


def test_what_is_not_given_has_a_default() -> None:
    """An hour ahead, shared by the host, and a failure is an error."""
    settings = Settings.parse({"connections": {"docker_default": HOST}})

    assert settings == Settings(settings.connections, 3600, "host", None, "raise", ())


def test_accounts_share_an_identity() -> None:
    """One token serves every account's registry in a region, so accounts are no part of an identity."""
    settings = Settings.parse(
        {"connections": {"a": "111111111111.dkr.ecr.us-east-1.amazonaws.com", "b": {"region_name": "us-east-1"}}}
    )

    assert settings.connections["a"].identity == settings.connections["b"].identity


@pytest.mark.parametrize(
    ("host", "fips", "dual_stack"),
    [
        (f"{A}.dkr.ecr-fips.us-east-1.amazonaws.com", True, False),
        (f"{A}.dkr-ecr.us-east-1.on.aws", False, True),
        (f"{A}.dkr-ecr-fips.us-east-1.on.aws", True, True),
    ],
)
def test_a_registrys_host_decides_its_own_endpoint_alone(host: str, fips: bool, dual_stack: bool) -> None:
    """A FIPS or dual-stack registry does not move the plain registries of its region to its endpoint."""
    settings = Settings.parse({"connections": {"a": host, "b": HOST}})
    kinds = [(mapped.identity.use_fips, mapped.identity.use_dual_stack) for mapped in settings.connections.values()]

    assert kinds == [(fips, dual_stack), (False, False)]


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "backend_kwargs", "are missing; set backend_kwargs ="),
    ({}, "backend_kwargs", "could not parse"),
    ({"refresh_before": 60}, "connections", "is missing"),
    ({"connections": None}, "connections", "is missing"),
    ({"connections": {}}, "connections", "maps no connection"),
    ({"connections": []}, "connections", "is a list; write an object such as"),
    ({"connections": "{"}, "connections", "is not JSON"),
    ({"connections": "[" * 100_000}, "connections", "is not JSON"),
    ({"connections": "[]"}, "connections", "is a list"),
    ({"connections": '"text"'}, "connections", "is a string"),
    ({"connections": "true"}, "connections", "is a truth value"),
    ({"connections": "null"}, "connections", "is null"),
    ({"connections": 1.5}, "connections", "is a number"),
    ({"connections": (HOST,)}, "connections", "is a tuple"),
    ({"connections": {"a": HOST}, "profile_name": {}}, "profile_name", "is an object"),
    ({"connection": {"a": HOST}}, "connection", "did you mean connections?"),
    ({"connections": {"a b": HOST}}, "connections.a b", "is not the ID of an Airflow connection"),
    ({"connections": {"": HOST}}, "connections.", "is empty"),
    ({"connections": {1: HOST}}, "connections.1", "is a number"),
    ({"connections": {"a": 1}}, "connections.a", "is a number; write a registry's host, or an object"),
    ({"connections": {"a": None}}, "connections.a", "is null"),
    ({"connections": {"a": "docker.io"}}, "connections.a", "docker.io"),
    ({"connections": {"a": {"registry": "docker.io"}}}, "connections.a.registry", "docker.io"),
    ({"connections": {"a": {"registry": 1}}}, "connections.a.registry", "is a number"),
    ({"connections": {"a": {"regoin_name": "eu-west-1"}}}, "connections.a.regoin_name", "did you mean region_name?"),
    ({"connections": {"a": {"region_name": "eu-wset-1x"}}}, "connections.a.region_name", "eu-wset-1x"),
    ({"connections": {"a": {"region_name": ["eu-west-1"]}}}, "connections.a.region_name", "is a list"),
    ({"connections": {"a": {"region_name": " eu-west-1"}}}, "connections.a.region_name", "white space"),
    ({"connections": {"a": {"region_name": "eu-west-1 "}}}, "connections.a.region_name", "white space"),
    ({"connections": {"a": {"region_name": " "}}}, "connections.a.region_name", "is empty"),
    ({"connections": {"a": {"profile_name": "a\tb"}}}, "connections.a.profile_name", "a control character"),
    (
        {"connections": {"a": {"registry": HOST, "region_name": "eu-west-1"}}},
        "connections.a.region_name",
        "contradicts",
    ),
    ({"connections": {"a": {"registry": HOST, "account_id": A[::-1]}}}, "connections.a.account_id", "contradicts"),
    (
        {"connections": {"a": {"registry": "public.ecr.aws", "account_id": A}}},
        "connections.a.account_id",
        "contradicts",
    ),
    ({"connections": {"a": {"registry": "ecr.example.com"}}}, "connections.a.registry", '"region_name": "us-east-1"}'),
    (
        {"connections": {"a": {"registry": "ecr.example.com"}}, "region_name": "us-east-1"},
        "connections.a.registry",
        '{"registry": "ecr.example.com", "region_name": ',
    ),
    ({"connections": {"a": "localhost:5000"}}, "connections.a", '{"registry": "localhost:5000", "region_name": '),
    (
        {"connections": {"a": {"registry": "registry", "region_name": "us-east-1"}}},
        "connections.a.registry",
        "with a dot or a port",
    ),
    (
        {"connections": {"a": {"registry": f"{HOST}:8443", "region_name": "eu-west-1"}}},
        "connections.a.region_name",
        "contradicts",
    ),
    (
        {"connections": {"a": {"registry": "ecr.example.com", "region_name": "us-east-1", "account_id": A}}},
        "connections.a.account_id",
        "contradicts",
    ),
    (
        {"connections": {"a": HOST, "b": {"region_name": "eu-west-1"}}, "endpoint_url": US_ENDPOINT},
        "endpoint_url",
        "is of ecr in us-east-1, and connections.b is of ecr in eu-west-1",
    ),
    (
        {"connections": {"a": HOST, "b": "public.ecr.aws"}, "endpoint_url": US_ENDPOINT},
        "endpoint_url",
        "and connections.b is of ecr-public in us-east-1",
    ),
    (
        {"connections": {"a": {"region_name": "eu-west-1", "endpoint_url": US_ENDPOINT}}},
        "connections.a.endpoint_url",
        "and connections.a is of ecr in eu-west-1",
    ),
    (
        {"connections": {"a": {"endpoint_url": "https://sts.us-east-1.amazonaws.com"}}},
        "connections.a.endpoint_url",
        "is of sts in us-east-1, and connections.a is of ecr in any region",
    ),
    ({"connections": {"a": {"account_id": A}}}, "connections.a.account_id", "set region_name as well"),
    (
        {"connections": {"a": {"account_id": 123456789012, "region_name": "us-east-1"}}},
        "connections.a.account_id",
        "a string",
    ),
    ({"connections": {"a": {"account_id": "12", "region_name": "us-east-1"}}}, "connections.a.account_id", "twelve"),
    ({"connections": {"a": {"extra": []}}}, "connections.a.extra", "is a list"),
    ({"connections": {"a": {"extra": {"k": deep()}}}}, "connections.a.extra", "too deep"),
    ({"connections": {"a": {"extra": {"reauth": False}}}}, "connections.a.extra.reauth", "is not true"),
    ({"connections": {"a": {"extra": {"reauth": 1}}}}, "connections.a.extra.reauth", "is not true"),
    ({"connections": {"a": {"refresh_before": 5}}}, "connections.a.refresh_before", "is not supported"),
    ({"connections": {"a": {"assume_role_kwargs": {}}}}, "connections.a.assume_role_kwargs", "without a role"),
    ({"connections": {"a": HOST}, "assume_role_kwargs": {}}, "assume_role_kwargs", "without a role"),
    ({"connections": {"a": HOST}, "role_arn": "pull"}, "role_arn", "ARN of an IAM role"),
    ({"connections": {"a": HOST}, "role_arn": "arn:aws:iam::1:user/x"}, "role_arn", "ARN of an IAM role"),
    ({"connections": {"a": HOST}, "profile_name": ""}, "profile_name", "is empty"),
    ({"connections": {"a": HOST}, "endpoint_url": "ecr.example"}, "endpoint_url", "URL of an endpoint"),
    ({"connections": {"a": HOST}, "endpoint_url": "https://me:secret@ecr.example"}, "endpoint_url", "user name"),
    ({"connections": {"a": HOST}, "verify": 1}, "verify", "is a number; write true, false, or the path"),
    ({"connections": {"a": HOST}, "verify": ""}, "verify", "is empty"),
    ({"connections": {"a": HOST}, "refresh_before": -1}, "refresh_before", "is -1"),
    ({"connections": {"a": HOST}, "refresh_before": True}, "refresh_before", "is true"),
    ({"connections": {"a": HOST}, "refresh_before": "soon"}, "refresh_before", "number of seconds"),
    ({"connections": {"a": HOST}, "refresh_before": float("nan")}, "refresh_before", "number of seconds"),
    ({"connections": {"a": HOST}, "refresh_before": 10**400}, "refresh_before", "number of seconds"),
    ({"connections": {"a": HOST}, "refresh_before": float("inf")}, "refresh_before", "number of seconds"),
    ({"connections": {"a": HOST}, "refresh_before": "1e999"}, "refresh_before", "number of seconds"),
    ({"connections": {"a": HOST}, "refresh_before": deep()}, "refresh_before", "too deep"),
    ({"connections": {"a": HOST}, "cache": "redis"}, "cache", '"host" or "process"'),
    ({"connections": {"a": HOST}, "cache": {HOST}}, "cache", 'is "a set"'),
    ({"connections": {"a": HOST}, "cache_dir": "cache"}, "cache_dir", 'is "cache"; write an absolute path'),
    ({"connections": {"a": HOST}, "on_error": "ignore"}, "on_error", '"raise" or "next"'),
    (
        {"connections": {"a": HOST}, "aws_conn_id": "aws default"},
        "aws_conn_id",
        "is not the ID of an Airflow connection",
    ),
    ({"connections": {"a": HOST, "b": HOST}, "aws_conn_id": "b"}, "aws_conn_id", 'is "b", which is itself served'),
    ({"connections": {"a": {"aws_conn_id": "a"}}}, "connections.a.aws_conn_id", 'is "a", which is itself served'),
    (
        {"connections": {"a": {"aws_conn_id": "b"}, "b": HOST}, "aws_conn_id": "c"},
        "connections.a.aws_conn_id",
        'is "b", which is itself served',
    ),
    ({"connections": {"a": HOST}, "aws_conn_id": "b", "profile_name": "c"}, "aws_conn_id", "contradicts profile_name"),
    (
        {"connections": {"a": {"aws_conn_id": "b", "profile_name": "c"}}},
        "connections.a.aws_conn_id",
        "contradicts profile_name",
    ),
    *(
        ({"connections": {"a": HOST}, "fallback_backends": value}, f"fallback_backends{path}", part)
        for value, path, part in [
            ({"backend": "a.B"}, "", "is an object; write a list of objects"),
            ("a.B", "", "is not JSON; write a list of objects"),
            ('{"backend": "a.B"}', "", "is an object"),
            ([{"backend": "a.B"}, "a.B"], "[1]", "is not JSON; write an object"),
            ([[]], "[0]", "is a list; write an object such as {"),
            ([{}], "[0].backend", "is missing"),
            ([{"backend": None}], "[0].backend", "is missing"),
            ([{"backend": 1}], "[0].backend", "is a number"),
            ([{"backend": "LocalFilesystemBackend"}], "[0].backend", "is not the dotted name of a class"),
            ([{"backend": "a..B"}], "[0].backend", "is not the dotted name of a class"),
            ([{"backend": "a.1B"}], "[0].backend", "is not the dotted name of a class"),
            ([{"backend": "a.B "}], "[0].backend", "white space"),
            ([{"backend": "ecr_secrets_backend.EcrSecretsBackend"}], "[0].backend", "is this backend itself"),
            ([{"backend": "a.B", "kwargs": {}}], "[0].kwargs", "did you mean backend_kwargs?"),
            ([{"backend": "a.B", "backend_kwargs": []}], "[0].backend_kwargs", "is a list"),
            ([{"backend": "a.B", "backend_kwargs": "{"}], "[0].backend_kwargs", "is not JSON"),
            ([{"backend": "a.B", "backend_kwargs": {"": 1}}], "[0].backend_kwargs.", "is empty"),
        ]
    ),
    (
        {"connections": {"a": HOST}, "role_arn": ROLE, "assume_role_kwargs": {"Tags": [{"Key": deep()}]}},
        "assume_role_kwargs",
        "too deep",
    ),
    *(
        (
            {"connections": {"a": HOST}, "role_arn": ROLE, "assume_role_kwargs": kwargs},
            f"assume_role_kwargs.{key}",
            part,
        )
        for kwargs, key, part in [
            ({"ExternalID": "an-id"}, "ExternalID", "did you mean ExternalId?"),
            ({"RoleArn": ROLE}, "RoleArn", "is not supported"),
            ({"SerialNumber": "arn:aws:iam::123456789012:mfa/me"}, "SerialNumber", "is not supported"),
            ({"TokenCode": "123456"}, "TokenCode", "is not supported"),
            ({" Tags": []}, " Tags", "white space"),
        ]
    ),
]


@pytest.mark.parametrize(("kwargs", "path", "part"), FAULTS, ids=[f"{path}: {part}" for _, path, part in FAULTS])
def test_a_fault_is_refused_in_one_line_that_names_it(kwargs: dict[str, Any], path: str, part: str) -> None:
    """The path of the kwarg, what is wrong with it, and what would be right; not how that was found."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse(kwargs)

    assert caught.value.path == path
    assert caught.value.fix
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert part in str(caught.value)
    assert str(caught.value).startswith(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "shown"), [("redis", '"redis"; '), ("x" * 1000, "xxx..."), ([1, None], "[1, null]; ")]
)
def test_a_refusal_shows_the_value_but_not_at_length(value: object, shown: str) -> None:
    """The message is a line, whatever was given."""
    with pytest.raises(ConfigurationError) as caught:
        parse_one(HOST, cache=value)

    assert shown in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_name_that_is_far_from_every_other_is_answered_with_all() -> None:
    """There is nothing to guess."""
    with pytest.raises(ConfigurationError) as caught:
        parse_one(HOST, xyz=1)

    assert all(name in caught.value.fix for name in SETTINGS)


def test_a_refusal_does_not_repeat_what_may_be_secret() -> None:
    """A password in a URL, or a value in the wrong place, stays out of the message."""
    with pytest.raises(ConfigurationError) as caught:
        parse_one(HOST, endpoint_url="https://me:s3cret@ecr.example")

    assert "s3cret" not in str(caught.value)


def test_the_kwargs_of_another_backend_are_not_shown() -> None:
    """There may be a token among them."""
    settings = Settings.parse(
        {
            "connections": {"a": HOST},
            "fallback_backends": [{"backend": "a.B", "backend_kwargs": {"token": "s3cret"}}],
        }
    )

    assert "s3cret" not in repr(settings)


def test_nothing_is_read_opened_or_called() -> None:
    """Airflow builds the backend in every process, at every command: Python's audit hook sees nothing happen."""
    program = """if True:
        import sys
        from ecr_secrets_backend.settings import Settings
        shape = {"region_name": "us-east-1", "role_arn": "arn:aws:iam::123456789012:role/pull"}
        connections = {"host": "123456789012.dkr.ecr.us-east-1.amazonaws.com", "object": shape}
        events = []
        sys.addaudithook(lambda event, arguments: events.append(event))
        Settings.parse({"connections": connections, "verify": "/etc/ca.pem", "cache_dir": "/var/cache/x"})
        print(events)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout == "[]\n"

"""Input for the property tests: valid input, nearly valid input, and any input."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import PARTITIONS, Partition
from ecr_secrets_backend.settings import ASSUME_ROLE_ARGUMENTS, CONNECTION_SETTINGS, FALLBACK_SETTINGS, SETTINGS
from ecr_secrets_backend.token import EcrToken
from tests.unit.builders import NOW, build_entry, build_token

Values = st.SearchStrategy[Any]  # of any JSON type


# Any input

ANY_TEXT = (
    st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Zs", "Nd"]))  # a JSON string may hold lone surrogates, too
    | st.sampled_from(["[", '{"a":', "a", "1", "-", "a.", " "]).map(lambda text: text * 20_000)
)
ANY_NUMBER = st.floats() | st.integers() | st.sampled_from([10**22, 10**308, -(10**308), 10**400])
ANY_JSON: Values = st.recursive(
    st.none() | st.booleans() | ANY_NUMBER | ANY_TEXT | st.just(json.loads("[" * 300 + "]" * 300)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


# Nearly valid input

_NAMES = st.sampled_from(sorted({*SETTINGS, *CONNECTION_SETTINGS, *ASSUME_ROLE_ARGUMENTS, *FALLBACK_SETTINGS}))
_SLIPS = st.sampled_from(["", ".", "-", "/", ":", "@", " ", "\n", "\x00", "1", "A", "\u0661", "\u212a", "\ud800"])


@st.composite
def slips(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Replace up to three characters of a text."""
    text = draw(texts)
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(begin + 3, len(text))))
    return text[:begin] + draw(_SLIPS | ANY_TEXT) + text[end:]


@st.composite
def near_misses(draw: st.DrawFn, values: Values) -> Any:
    """Change one to three places in a JSON value, at any depth."""
    value = draw(values)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: item for name, item in value.items() if name != key}
        match draw(st.sampled_from(["change", "change", "change", "remove", "rename", "add", "text"])):
            case "change":
                return {**value, key: _changed(draw, value[key])}
            case "remove":
                return rest
            case "rename":
                return {**rest, draw(slips(st.just(key))): value[key]}
            case "add":
                return {**value, draw(_NAMES): draw(ANY_JSON)}
            case _:
                return json.dumps(value)
    if isinstance(value, list) and value and draw(st.booleans()):
        return [_changed(draw, value[0]), *value[1:]]
    if isinstance(value, str) and draw(st.booleans()):
        return draw(slips(st.just(value)))
    return draw(ANY_JSON)


# Registries

ACCOUNTS = st.from_regex(r"[0-9]{12}", fullmatch=True)


@st.composite
def regions(draw: st.DrawFn, partition: Partition | None = None) -> str:
    pattern = (partition or draw(st.sampled_from(PARTITIONS))).region_pattern
    return draw(st.from_regex(pattern.replace(r"\w", "[a-z0-9]").replace(r"\d", "[0-9]"), fullmatch=True))


@st.composite
def hosts(draw: st.DrawFn) -> str:
    """Build a host in each form of each partition, or of ECR Public."""
    partition = draw(st.sampled_from(PARTITIONS))
    separator, domain = draw(st.sampled_from([(".", partition.domain), ("-", partition.dual_stack_registry_domain)]))
    fips = draw(st.sampled_from(["", "-fips"]))
    private = f"{draw(ACCOUNTS)}.dkr{separator}ecr{fips}.{draw(regions(partition))}.{domain}"
    return draw(st.sampled_from([private] * 8 + ["public.ecr.aws", "ecr-public.aws.com"]))


# Kwargs

_TEXTS = st.from_regex(r"[a-z][\w#-~]{0,9}", fullmatch=True)
_OBJECTS = st.dictionaries(_TEXTS, _TEXTS | st.booleans(), max_size=2)
_ROLES = {
    "role_arn": st.just("arn:aws:iam::123456789012:role/path/pull"),
    "assume_role_kwargs": st.fixed_dictionaries(
        {},
        optional={
            "DurationSeconds": ANY_NUMBER,
            "ExternalId": ANY_TEXT,
            "Policy": _TEXTS,
            "PolicyArns": st.lists(_OBJECTS, max_size=2),
            "Tags": ANY_JSON,
        },
    ),
}
_AWS_SETTINGS = {
    "profile_name": _TEXTS,
    "aws_conn_id": st.sampled_from(["aws_default", "aws/ecr"]),
    "endpoint_url": st.sampled_from(["http://localhost:4566", "https://[::1]:443/", "https://ecr.example/path"]),
    "verify": st.booleans() | st.sampled_from(["true", "False", "/etc/ca.pem"]),
}


def _objects(*required: dict[str, Values], **optional: Values) -> Values:
    fixed = {name: values for group in required for name, values in group.items()}
    objects = st.fixed_dictionaries(fixed, optional={**_AWS_SETTINGS, **optional}) | st.fixed_dictionaries(
        {**fixed, **_ROLES}, optional={**_AWS_SETTINGS, **optional}
    )
    return objects.map(_with_one_source)


def _with_one_source(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "profile_name" or "aws_conn_id" not in settings}


_EXTRA = _OBJECTS | _OBJECTS.map(json.dumps)
_CONNECTION_OBJECTS = (
    _objects({"registry": hosts()}, extra=_EXTRA)
    | _objects({"account_id": ACCOUNTS, "region_name": regions()}, extra=_EXTRA)
    | _objects(region_name=regions(), extra=_EXTRA)
)
_CONN_IDS = st.sampled_from(["docker_default", "a.b", "team/docker:eu", "#1"])
_CONNECTIONS = st.dictionaries(
    _CONN_IDS, hosts() | _CONNECTION_OBJECTS | _CONNECTION_OBJECTS.map(json.dumps), min_size=1, max_size=3
)
_FALLBACKS = st.lists(
    st.fixed_dictionaries(
        {"backend": st.sampled_from(["airflow.secrets.metastore.MetastoreBackend", "a.B", "_a._b._C9"])},
        optional={"backend_kwargs": _OBJECTS | _OBJECTS.map(json.dumps)},
    ),
    max_size=2,
)
CONFIGURATIONS = _objects(
    {"connections": _CONNECTIONS | _CONNECTIONS.map(json.dumps)},
    region_name=regions(),
    refresh_before=st.floats(0, 1e9) | st.integers(0, 10**6).map(str),
    cache=st.sampled_from(["host", "process"]),
    cache_dir=_TEXTS.map("/{}".format),
    on_error=st.sampled_from(["raise", "next"]),
    fallback_backends=_FALLBACKS | _FALLBACKS.map(json.dumps),
)


# Cache entries

FINITE = st.floats(-1e300, 1e300)  # the difference of two is finite, too
FAILURES = st.builds(TokenFailure)
LIKELY_TOKENS = st.builds(
    lambda lifetime, password: build_token(lifetime=lifetime, password=password),
    st.floats(-100, 50_000),
    st.sampled_from(["a-token", *"abcdefgh"]),
)
LIKELY_TIMES = st.floats(-50_000, 100_000).map(NOW.__add__)
IDENTITY = AwsIdentity("ecr", "us-east-1")
LIKELY_ENTRIES = st.builds(
    lambda **fields: build_entry(key=IDENTITY.key, **fields),
    token=st.none() | LIKELY_TOKENS,
    failure=st.none() | FAILURES,
    failures=st.integers(0, 10_000),
    recorded_at=st.just(NOW) | LIKELY_TIMES,
    age=st.just(0.0) | st.floats(-50_000, 100_000),
)
ENTRIES = st.builds(
    Entry,
    st.text(),
    st.text(),
    st.none() | st.builds(EcrToken, registry=st.none() | hosts(), received_at=FINITE, expires_at=FINITE),
    st.none() | FAILURES,
    st.integers(0, 10**6),
    st.booleans(),
    FINITE,
    FINITE,
)
_ODD_TEXTS: Values = st.text() | st.text() | st.sampled_from([None, False, 0, [], {}, "\ud800", "\ud800\udc00"])
_ODD_TIMES: Values = FINITE | FINITE | ANY_NUMBER | st.booleans()
ODD_ENTRIES = st.builds(
    Entry,
    st.text() | _ODD_TEXTS,
    st.text() | _ODD_TEXTS,
    st.none() | st.builds(EcrToken, _ODD_TEXTS, st.text(), _ODD_TEXTS, _ODD_TIMES, _ODD_TIMES),
    st.none() | FAILURES,  # a failure makes any text one line
    st.integers(0, 10**6) | _ODD_TIMES,
    st.booleans() | _ODD_TEXTS,
    FINITE | _ODD_TIMES,
    FINITE | _ODD_TIMES,
)

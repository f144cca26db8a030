"""Input for the property tests: valid input, nearly valid input, and any input."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
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


# Kwargs

_ROLE = {
    "role_arn": "arn:aws:iam::123456789012:role/path/pull",
    "assume_role_kwargs": {"DurationSeconds": 900, "ExternalId": "an-id", "PolicyArns": [{"arn": "a-policy"}]},
}
_CONNECTIONS = {
    "docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "a.b": {"account_id": "123456789012", "region_name": "eu-west-1", "extra": {"reauth": True}, **_ROLE},
    "team/docker:eu": json.dumps({"registry": "public.ecr.aws", "profile_name": "a-profile"}),
    "#1": {"registry": "localhost:5000", "region_name": "us-east-1", "aws_conn_id": "aws/ecr"},
}
CONFIGURATIONS: list[dict[str, Any]] = [
    {
        "connections": _CONNECTIONS,
        "region_name": "us-east-1",
        "profile_name": "a-profile",
        "refresh_before": 3600,
        "cache": "host",
        "cache_dir": "/a/folder",
        "on_error": "next",
        "fallback_backends": [{"backend": "a.B", "backend_kwargs": {"a": "b"}}],
    },
    {
        "connections": json.dumps(_CONNECTIONS),
        **_ROLE,
        "aws_conn_id": "aws_default",
        "endpoint_url": "https://[::1]:443/",
        "verify": "/etc/ca.pem",
        "refresh_before": "60",
        "fallback_backends": json.dumps([{"backend": "_a._b._C9", "backend_kwargs": json.dumps({"a": "b"})}]),
    },
]


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
    st.none() | st.builds(EcrToken, registry=st.none() | st.text(), received_at=FINITE, expires_at=FINITE),
    st.none() | FAILURES,
    st.integers(0, 10**6),
    st.booleans(),
    FINITE,
    FINITE,
)

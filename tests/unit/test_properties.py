"""Properties that are true for any input. ``make fuzz`` tries many more inputs."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from freezegun import freeze_time
from hypothesis import example, given
from hypothesis import strategies as st

from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import ConfigurationError, TokenError, TokenFailure
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import Registry
from ecr_secrets_backend.settings import CONNECTION_SETTINGS, SETTINGS, Settings
from ecr_secrets_backend.token import EcrToken
from tests.unit.builders import NOW, build_entry, build_token

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
Expected = TypeVar("Expected", bound=Exception)
Values = st.SearchStrategy[Any]  # of any JSON type

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
NAMES = st.sampled_from(sorted({*SETTINGS, *CONNECTION_SETTINGS}))
SLIPS = st.sampled_from(["", ".", "-", "/", ":", "@", " ", "\n", "\x00", "1", "A", "\u0661", "\u212a", "\ud800"])


@st.composite
def slips(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Replace up to three characters of a text."""
    text = draw(texts)
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(begin + 3, len(text))))
    return text[:begin] + draw(SLIPS | ANY_TEXT) + text[end:]


@st.composite
def near_misses(draw: st.DrawFn, values: Values) -> Any:
    """Change one to three places in a JSON value, at any depth."""
    value = draw(values)
    for _ in range(draw(st.integers(1, 3))):
        value = change(draw, value)
    return value


def change(draw: st.DrawFn, value: Any) -> Any:
    """Replace, rename, remove or add an item at any depth, or change a text."""
    if not value or not isinstance(value, dict | list | str) or not draw(st.integers(0, 3)):
        return draw(ANY_JSON)
    if isinstance(value, str):
        return draw(slips(st.just(value)))
    if isinstance(value, list):
        return [change(draw, value[0]), *value[1:]]
    key = draw(st.sampled_from(sorted(value)))
    rest = {name: item for name, item in value.items() if name != key}
    changed = {**value, key: change(draw, value[key])}
    renamed = {**rest, draw(slips(st.just(key))): value[key]}
    added = {**value, draw(NAMES): draw(ANY_JSON)}
    return draw(st.sampled_from([changed] * 4 + [renamed, rest, added, json.dumps(value)]))


def result_of(expected: type[Expected], read: Callable[..., Value], *given: object) -> Value | Expected:
    """Return the value or the expected exception. Any other exception fails the test."""
    try:
        return read(*given)
    except expected as error:
        return error


ROLE = {
    "role_arn": "arn:aws:iam::123456789012:role/path/pull",
    "assume_role_kwargs": {"DurationSeconds": 900, "ExternalId": "an-id", "PolicyArns": [{"arn": "a-policy"}]},
}
CONNECTIONS = {
    "docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "a.b": {"account_id": "123456789012", "region_name": "eu-west-1", "extra": {"reauth": True}, **ROLE},
    "team/docker:eu": json.dumps({"registry": "public.ecr.aws", "profile_name": "a-profile"}),
    "#1": {"registry": "localhost:5000", "region_name": "us-east-1", "endpoint_url": "http://localhost:4566"},
}
CONFIGURATIONS: list[dict[str, Any]] = [
    {
        "connections": CONNECTIONS,
        "region_name": "us-east-1",
        "aws_conn_id": "aws/ecr",
        "refresh_before": 0,
        "cache": "host",
        "cache_dir": "/a/folder",
        "on_error": "next",
        "fallback_backends": [{"backend": "a.B", "backend_kwargs": {"a": "b"}}],
    },
    {
        "connections": json.dumps(CONNECTIONS),
        **ROLE,
        "profile_name": "a-profile",
        "endpoint_url": "https://[::1]:443/",
        "verify": "/etc/ca.pem",
        "refresh_before": "60",
        "fallback_backends": json.dumps([{"backend": "_a._b._C9", "backend_kwargs": json.dumps({"a": "b"})}]),
    },
]
NEARLY_VALID = near_misses(st.sampled_from(CONFIGURATIONS)).filter(lambda value: isinstance(value, dict))


@pytest.mark.parametrize("kwargs", CONFIGURATIONS)
def test_each_valid_configuration_is_accepted(kwargs: dict[str, Any]) -> None:
    """So that the configurations below are wrong in one to three places only."""
    Settings.parse(kwargs)


@example({"connections": "[" * 100_000})
@example({"refresh_before": 10**400})
@given(st.dictionaries(ANY_TEXT, ANY_JSON) | NEARLY_VALID)
def test_any_json_is_a_configuration_or_is_refused(kwargs: dict[str, Any]) -> None:
    """The message is one line that begins with the path of a kwarg that is wrong or missing."""
    parsed = result_of(ConfigurationError, Settings.parse, kwargs)

    if isinstance(parsed, ConfigurationError):
        assert str(parsed).isprintable()
        assert str(parsed).startswith(parsed.path) or not parsed.path.isprintable()
        assert parsed.path.startswith((*kwargs, "connections", "backend_kwargs"))
        assert parsed.problem
        assert parsed.fix


HOSTS = st.sampled_from(
    ["123456789012.dkr.ecr.us-east-1.amazonaws.com", "123456789012.dkr-ecr-fips.us-west-2.on.aws", "public.ecr.aws"]
)


@given(ANY_TEXT | HOSTS | slips(HOSTS) | slips(slips(HOSTS)))
def test_any_text_is_a_host_or_is_refused(text: str) -> None:
    """The host is a part of the text, and is read and built as the same registry again."""
    registry = result_of(ConfigurationError, Registry.parse, text)

    if isinstance(registry, ConfigurationError):
        assert str(registry).isprintable()
    else:
        assert registry.host in text.lower()
        assert Registry.parse(registry.host) == registry
        if registry.account_id is not None and not registry.fips and not registry.dual_stack:
            assert Registry.of_account(registry.account_id, registry.region) == registry


FINITE = st.floats(-1e300, 1e300)  # the difference of two is finite, too
FAILURES = st.none() | st.builds(TokenFailure)
ENTRIES = st.builds(
    Entry,
    st.text(),
    st.text(),
    st.none() | st.builds(EcrToken, registry=st.none() | st.text(), received_at=FINITE, expires_at=FINITE),
    FAILURES,
    st.integers(0, 10**6),
    st.booleans(),
    FINITE,
    FINITE,
)


@given(ENTRIES)
def test_each_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert Entry.from_json(entry.to_json()) == entry


FIELDS = ENTRIES.map(lambda entry: json.loads(entry.to_json()))
FILES = (
    st.binary()
    | slips(ENTRIES.map(lambda entry: entry.to_json().decode())).map(lambda text: text.encode(errors="surrogatepass"))
    | near_misses(FIELDS).map(lambda fields: json.dumps(fields).encode())
    | near_misses(FIELDS).map(lambda fields: json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass"))
)


@given(FILES)
def test_any_bytes_are_a_usable_entry_or_none(text: bytes) -> None:
    """An entry can be written and read again, and its methods and its token can be used."""
    entry = Entry.from_json(text)

    if entry is not None:
        assert Entry.from_json(entry.to_json()) == entry
        assert not math.isnan(entry.now())
        assert not math.isnan(entry.expires_at)
        assert entry.back_off_left() <= entry.back_off
        assert entry.fresh_token(3600) in {None, entry.servable_token()}
        if entry.token is not None:
            texts = (entry.token.username, entry.token.password, entry.token.registry)
            assert {type(value) for value in texts} <= {str, type(None)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HostStore:
    return HostStore(str(tmp_path_factory.mktemp("cache")))


IDENTITY = AwsIdentity("ecr", "us-east-1")
LIKELY_TIMES = st.floats(-50_000, 100_000).map(NOW.__add__)
LIKELY_TOKENS = st.builds(
    lambda lifetime, password: build_token(lifetime=lifetime, password=password),
    st.floats(-100, 50_000),
    st.sampled_from(["a-token", *"abcdefgh"]),
)
LIKELY_ENTRIES = st.builds(
    lambda **fields: build_entry(key=IDENTITY.key, **fields),
    token=st.none() | LIKELY_TOKENS,
    failure=FAILURES,
    failures=st.integers(0, 10_000),
    recorded_at=st.just(NOW) | LIKELY_TIMES,
    age=st.just(0.0) | st.floats(-50_000, 100_000),
)


@given(FILES | st.builds(Entry.to_json, LIKELY_ENTRIES))
@freeze_time(datetime.fromtimestamp(NOW, timezone.utc))
def test_any_bytes_in_a_file_of_the_cache_are_served_or_replaced(store: HostStore, content: bytes) -> None:
    """A lookup returns a token that has not expired, or the failure in the file. Then the file is valid."""
    with suppress(OSError):  # the store refuses to write a file that is too long to be read
        store.write(f"{IDENTITY.key}.json", content, NOW)
    served = result_of(TokenError, TokenCache(store, 3600, Memory()).get, IDENTITY, build_token)

    assert isinstance(served, TokenError) or served.token.expires_at > NOW
    assert Entry.from_json(store.read(f"{IDENTITY.key}.json") or b"") is not None


TOKENS = LIKELY_TOKENS | st.builds(EcrToken, received_at=st.floats(), expires_at=st.floats())
TIMES = st.tuples(st.floats(), st.floats()) | st.tuples(LIKELY_TIMES, LIKELY_TIMES)


@given(TOKENS, TIMES, st.floats(min_value=0, allow_infinity=False))
def test_a_token_is_fresh_then_servable_then_expired(
    token: EcrToken, times: tuple[float, float], refresh_before: float
) -> None:
    """For any times from AWS, a clock or a file of the cache, and in this order from when the token was received."""
    early, late = sorted(times)

    assert token.is_servable(early) or not token.is_fresh(early, refresh_before)
    assert early < token.expires_at or not token.is_servable(early)
    if token.received_at <= early:
        assert token.is_servable(early) or not token.is_servable(late)
        assert token.is_fresh(early, refresh_before) or not token.is_fresh(late, refresh_before)

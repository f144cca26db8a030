"""Properties that are true for any input. ``make fuzz`` tries many more inputs."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import ConfigurationError, TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.registry import Registry
from ecr_secrets_backend.settings import Settings
from ecr_secrets_backend.token import EcrToken
from tests.unit.builders import NOW, build_token
from tests.unit.strategies import (
    ANY_JSON,
    ANY_TEXT,
    CONFIGURATIONS,
    ENTRIES,
    IDENTITY,
    LIKELY_ENTRIES,
    LIKELY_TIMES,
    LIKELY_TOKENS,
    near_misses,
    slips,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Value = TypeVar("Value")
Expected = TypeVar("Expected", bound=Exception)


def result_of(expected: type[Expected], read: Callable[..., Value], *given: object) -> Value | Expected:
    """Return the value or the expected exception. Any other exception fails the test."""
    try:
        return read(*given)
    except expected as error:
        return error


@pytest.mark.parametrize("kwargs", CONFIGURATIONS)
def test_each_valid_configuration_is_accepted(kwargs: dict[str, Any]) -> None:
    """So that the configurations below are wrong in one to three places only."""
    Settings.parse(kwargs)


NEARLY_VALID = near_misses(st.sampled_from(CONFIGURATIONS)).filter(lambda value: isinstance(value, dict))


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
def frozen() -> Iterator[None]:
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HostStore:
    return HostStore(str(tmp_path_factory.mktemp("cache")))


@pytest.mark.usefixtures("frozen")
@given(FILES | st.builds(Entry.to_json, LIKELY_ENTRIES))
def test_any_bytes_in_a_file_of_the_cache_are_served_or_replaced(store: HostStore, content: bytes) -> None:
    """A lookup returns a token that has not expired, or the failure in the file. Then the file is valid."""
    with suppress(OSError):  # the store refuses to write a file that is too long to be read
        store.write(f"{IDENTITY.key}.json", content, NOW)
    served = result_of(TokenError, TokenCache(store, 3600, Memory()).get, IDENTITY, build_token)

    assert isinstance(served, TokenError) or served.token.expires_at > NOW
    assert Entry.from_json(store.read(f"{IDENTITY.key}.json") or b"") is not None


TOKENS = LIKELY_TOKENS | st.builds(EcrToken, received_at=st.floats(), expires_at=st.floats())
TIMES = st.tuples(st.floats(), st.floats()) | st.tuples(LIKELY_TIMES, LIKELY_TIMES)
REFRESH = st.floats(min_value=0, allow_infinity=False)


@given(TOKENS, TIMES, REFRESH)
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


@given(LIKELY_TOKENS, REFRESH)
def test_a_token_is_fresh_for_half_of_its_lifetime(token: EcrToken, refresh_before: float) -> None:
    """With any refresh_before and jitter. Otherwise each lookup would call AWS."""
    assert token.lifetime < 1 or token.is_fresh(token.received_at + 0.49 * token.lifetime, refresh_before)

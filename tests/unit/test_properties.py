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
    ACCOUNTS,
    ANY_JSON,
    ANY_TEXT,
    CONFIGURATIONS,
    ENTRIES,
    IDENTITY,
    LIKELY_ENTRIES,
    LIKELY_TIMES,
    LIKELY_TOKENS,
    ODD_ENTRIES,
    hosts,
    near_misses,
    regions,
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


@given(CONFIGURATIONS)
def test_each_valid_configuration_is_accepted(kwargs: dict[str, Any]) -> None:
    """In each combination of kwargs."""
    Settings.parse(kwargs)


@given(st.dictionaries(ANY_TEXT, ANY_JSON) | near_misses(CONFIGURATIONS).filter(lambda value: isinstance(value, dict)))
def test_any_json_is_a_configuration_or_is_refused(kwargs: dict[str, Any]) -> None:
    """The message is one line that begins with the path of a kwarg that is wrong or missing."""
    parsed = result_of(ConfigurationError, Settings.parse, kwargs)

    if isinstance(parsed, ConfigurationError):
        assert str(parsed).isprintable()
        assert str(parsed).startswith(parsed.path) or not parsed.path.isprintable()
        assert parsed.path.startswith((*kwargs, "connections", "backend_kwargs"))
        assert parsed.problem
        assert parsed.fix


HOSTS = hosts()


@given(HOSTS)
def test_each_valid_host_is_accepted(host: str) -> None:
    """In each form of each partition."""
    assert Registry.parse(host).host == host


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


@given(ACCOUNTS | ANY_TEXT | slips(ACCOUNTS), regions() | ANY_TEXT | slips(regions()))
def test_any_account_and_region_are_a_registry_or_are_refused(account_id: str, region: str) -> None:
    """The host of the registry has that account and region."""
    registry = result_of(ConfigurationError, Registry.of_account, account_id, region)

    if isinstance(registry, ConfigurationError):
        assert str(registry).isprintable()
    else:
        assert (registry.account_id, registry.region) == (account_id, region.lower())
        assert Registry.parse(registry.host) == registry


@given(ENTRIES)
def test_each_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert Entry.from_json(entry.to_json()) == entry


FIELDS = ENTRIES.map(lambda entry: json.loads(entry.to_json()))
FILES = (
    st.binary()
    | slips(ENTRIES.map(lambda entry: entry.to_json().decode())).map(lambda text: text.encode(errors="surrogatepass"))
    | near_misses(FIELDS).map(lambda fields: json.dumps(fields).encode())
    | near_misses(FIELDS).map(lambda fields: json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass"))
    | st.builds(Entry.to_json, ODD_ENTRIES)
    | st.builds(lambda one, two: one.to_json()[:-1] + b"," + two.to_json()[1:], ENTRIES, ENTRIES)  # all keys twice
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


TOKENS = st.builds(EcrToken, received_at=st.floats(), expires_at=st.floats())
REFRESH = st.floats(min_value=0, allow_infinity=False)


@given(TOKENS | LIKELY_TOKENS, st.floats() | LIKELY_TIMES, REFRESH)
def test_a_fresh_token_is_servable_and_a_servable_one_has_not_expired(
    token: EcrToken, now: float, refresh_before: float
) -> None:
    """For any times from AWS, a clock or a file of the cache."""
    assert token.is_servable(now) or not token.is_fresh(now, refresh_before)
    assert now < token.expires_at or not token.is_servable(now)


@given(TOKENS | LIKELY_TOKENS, st.tuples(st.floats(), st.floats()) | st.tuples(LIKELY_TIMES, LIKELY_TIMES), REFRESH)
def test_a_token_that_is_due_or_too_old_stays_so(
    token: EcrToken, times: tuple[float, float], refresh_before: float
) -> None:
    """From the moment when it was received."""
    early, late = sorted(times)

    if token.received_at <= early:
        assert token.is_servable(early) or not token.is_servable(late)
        assert token.is_fresh(early, refresh_before) or not token.is_fresh(late, refresh_before)


@given(LIKELY_TOKENS, REFRESH)
def test_a_token_is_fresh_for_half_of_its_lifetime(token: EcrToken, refresh_before: float) -> None:
    """With any refresh_before and jitter. Otherwise each lookup would call AWS."""
    assert token.lifetime < 1 or token.is_fresh(token.received_at + 0.49 * token.lifetime, refresh_before)

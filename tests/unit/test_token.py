from __future__ import annotations

import pytest

from tests.unit.builders import NOW, TWELVE_HOURS, build_token

HOUR = 3600.0


@pytest.mark.parametrize(
    ("age", "fresh", "alive"),
    [
        (0, True, True),
        (11 * HOUR - 1, True, True),
        (11 * HOUR, False, True),
        (12 * HOUR - 301, False, True),
        (12 * HOUR - 300, False, False),
        (13 * HOUR, False, False),
    ],
)
def test_a_token_is_fresh_then_stale_then_dead(age: float, fresh: bool, alive: bool) -> None:
    """It is renewed an hour before its end, and served until five minutes before it."""
    token = build_token()

    assert (token.is_fresh(NOW + age, refresh_before=HOUR), token.is_alive(NOW + age)) == (fresh, alive)


@pytest.mark.parametrize(
    ("age", "fresh", "alive"), [(14.9, True, True), (15, False, True), (26.9, False, True), (27, False, False)]
)
def test_a_short_life_is_used_as_well(age: float, fresh: bool, alive: bool) -> None:
    """A token of thirty seconds is fresh for half of them, and dead for no more than the last tenth."""
    token = build_token(life=30)

    assert (token.is_fresh(NOW + age, refresh_before=HOUR), token.is_alive(NOW + age)) == (fresh, alive)


@pytest.mark.parametrize(("jitter", "renewal"), [(0.0, HOUR), (0.5, 1.05 * HOUR), (1.0, 1.1 * HOUR)])
def test_jitter_renews_earlier_and_never_later(jitter: float, renewal: float) -> None:
    """Hosts that were started together renew apart, by up to a tenth of refresh_before."""
    token = build_token(jitter=jitter)

    assert token.is_fresh(NOW + 12 * HOUR - renewal - 1, refresh_before=HOUR)
    assert not token.is_fresh(NOW + 12 * HOUR - renewal, refresh_before=HOUR)


def test_jitter_does_not_take_more_than_half_of_a_life() -> None:
    """Half of a life is the most that renewal may take, jitter included."""
    assert build_token(life=30, jitter=1.0).is_fresh(NOW + 14.9, refresh_before=HOUR)


@pytest.mark.parametrize(("kept_for", "end"), [(0, 300), (900, 1200)])
def test_no_refresh_ahead_serves_to_the_end(kept_for: float, end: float) -> None:
    """With refresh_before = 0 a token is fresh for as long as it is alive."""
    token = build_token()

    assert token.is_fresh(NOW + TWELVE_HOURS - end - 1, refresh_before=0, kept_for=kept_for)
    assert not token.is_fresh(NOW + TWELVE_HOURS - end, refresh_before=0, kept_for=kept_for)


@pytest.mark.parametrize(
    ("age", "fresh", "alive"),
    [
        (10.75 * HOUR - 1, True, True),
        (10.75 * HOUR, False, True),
        (11.75 * HOUR - 301, False, True),
        (11.75 * HOUR - 300, False, False),
    ],
)
def test_a_token_that_is_kept_is_renewed_and_dead_as_much_earlier(age: float, fresh: bool, alive: bool) -> None:
    """Whoever keeps it for a quarter of an hour begins the last pull five minutes before its end."""
    token = build_token()
    kept = {"kept_for": 0.25 * HOUR}

    assert (token.is_fresh(NOW + age, refresh_before=HOUR, **kept), token.is_alive(NOW + age, **kept)) == (fresh, alive)


@pytest.mark.parametrize("life", [30, TWELVE_HOURS])
def test_a_token_that_is_kept_for_ever_serves_for_half_of_its_life(life: float) -> None:
    """Whoever keeps it for longer than the other half may see it die, but does not have it minted at every lookup."""
    token = build_token(life=life)

    assert token.is_fresh(NOW + 0.49 * life, refresh_before=HOUR, kept_for=TWELVE_HOURS)
    assert not token.is_alive(NOW + 0.5 * life, kept_for=TWELVE_HOURS)


def test_a_token_from_the_future_is_not_served() -> None:
    """After the clock was set back nobody knows when it ends."""
    assert not build_token().is_alive(NOW - HOUR)
    assert not build_token().is_fresh(NOW - HOUR, refresh_before=0)


def test_a_clock_that_is_trimmed_by_seconds_does_no_harm() -> None:
    """As far as the last minutes of a life go, which are not used: so the end is still ahead."""
    assert build_token().is_fresh(NOW - 300, refresh_before=HOUR)
    assert not build_token().is_alive(NOW - 301)


def test_a_clock_that_was_never_set_does_no_harm() -> None:
    """A host without a battery begins in 1970."""
    assert build_token(minted_at=10.0).is_fresh(11.0, refresh_before=HOUR)


@pytest.mark.parametrize("life", [0, -30])
def test_a_token_without_life_is_dead(life: float) -> None:
    """An expiry at or before the moment it was received is never alive."""
    assert not build_token(life=life).is_alive(NOW)


def test_repr_does_not_show_the_password() -> None:
    """A repr ends in logs."""
    assert "s3cret" not in repr(build_token(password="s3cret"))


def test_a_token_tells_when_it_is_to_be_renewed() -> None:
    """The moment from which it is not fresh any more."""
    token = build_token(jitter=0.5)
    renewal_at = token.renewal_at(HOUR)

    assert renewal_at == token.expires_at - 1.05 * HOUR
    assert token.is_fresh(renewal_at - 1, HOUR)
    assert not token.is_fresh(renewal_at, HOUR)

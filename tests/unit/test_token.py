from __future__ import annotations

import pytest

from tests.unit.builders import HOUR, NOW, TWELVE_HOURS, build_token

JITTER = 0.1 * HOUR  # the most that it may take of refresh_before


@pytest.mark.parametrize(
    ("age", "fresh", "servable"),
    [
        (0, True, True),
        (11 * HOUR - JITTER - 1, True, True),
        (11 * HOUR, False, True),
        (11.75 * HOUR - 1, False, True),
        (11.75 * HOUR, False, False),
        (13 * HOUR, False, False),
    ],
)
def test_a_token_is_fresh_then_due_for_renewal_then_too_old(age: float, fresh: bool, servable: bool) -> None:
    """It is renewed an hour before it expires, and served until 900 s before it expires."""
    token = build_token()

    assert (token.is_fresh(NOW + age, refresh_before=HOUR), token.is_servable(NOW + age)) == (fresh, servable)


@pytest.mark.parametrize(
    ("age", "fresh", "servable"), [(14.9, True, True), (15, False, True), (26.9, False, True), (27, False, False)]
)
def test_a_short_lifetime_is_used_as_well(age: float, fresh: bool, servable: bool) -> None:
    """A token of thirty seconds is fresh for half of them, and served for all but the last tenth."""
    token = build_token(lifetime=30)

    assert (token.is_fresh(NOW + age, refresh_before=HOUR), token.is_servable(NOW + age)) == (fresh, servable)


def test_jitter_renews_earlier_and_never_later() -> None:
    """Hosts that were started together renew apart, by up to a tenth of refresh_before."""
    early = [NOW + TWELVE_HOURS - build_token(password=f"{n}").renewal_at(HOUR) - HOUR for n in range(100)]

    assert 0 <= min(early) < 0.1 * JITTER
    assert 0.9 * JITTER < max(early) <= JITTER


def test_all_processes_of_a_host_agree_on_the_jitter() -> None:
    """It is derived from the token alone."""
    assert build_token().jitter == build_token(registry=None, received_at=NOW - 1).jitter
    assert build_token().jitter != build_token(password="another").jitter


def test_jitter_does_not_take_more_than_half_of_a_lifetime() -> None:
    """Half of a lifetime is the most that renewal may take, jitter included."""
    assert all(build_token(lifetime=30, password=f"{n}").is_fresh(NOW + 14.9, refresh_before=HOUR) for n in range(20))


def test_no_refresh_ahead_serves_until_the_margin() -> None:
    """With refresh_before = 0 a token is fresh for as long as it is served."""
    token = build_token()

    assert token.is_fresh(NOW + TWELVE_HOURS - 901, refresh_before=0)
    assert not token.is_fresh(NOW + TWELVE_HOURS - 900, refresh_before=0)


def test_a_token_from_the_future_is_not_served() -> None:
    """After the clock was set back, when it expires cannot be known."""
    assert not build_token().is_servable(NOW - HOUR)
    assert not build_token().is_fresh(NOW - HOUR, refresh_before=0)


def test_a_clock_that_is_corrected_by_minutes_does_no_harm() -> None:
    """As far as the margin goes, which is not used: the token cannot have expired."""
    assert build_token().is_fresh(NOW - 900, refresh_before=HOUR)
    assert not build_token().is_servable(NOW - 901)


def test_a_clock_that_was_never_set_does_no_harm() -> None:
    """A host without a battery starts in 1970."""
    assert build_token(received_at=10.0).is_fresh(11.0, refresh_before=HOUR)


@pytest.mark.parametrize("lifetime", [0, -30])
def test_a_token_without_a_lifetime_is_not_served(lifetime: float) -> None:
    """It expired at or before the moment it was received."""
    assert not build_token(lifetime=lifetime).is_servable(NOW)


def test_repr_does_not_show_the_password() -> None:
    """A repr ends in logs."""
    assert "s3cret" not in repr(build_token(password="s3cret"))

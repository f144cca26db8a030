from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.entry import BACK_OFF_JITTER_PART, LONGEST_BACK_OFF_SECONDS, Entry
from tests.unit.builders import HOUR, NOW, build_entry, build_failure, build_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.token import EcrToken


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 120), (7, 120), (1000, 120)]
)
def test_the_back_off_doubles_with_each_failure_in_a_row(failures: int, seconds: float) -> None:
    """From 5 s to 120 s, shortened by up to a fifth so that hosts that failed together retry apart."""
    back_offs = [
        build_entry(failure=build_failure(), failures=failures, recorded_at=NOW + n).back_off for n in range(100)
    ]

    assert seconds * (1 - BACK_OFF_JITTER_PART) <= min(back_offs) < seconds * 0.85
    assert seconds * 0.95 < max(back_offs) <= seconds


def test_the_back_off_of_a_short_lived_token_is_short() -> None:
    """At most a tenth of the last token's lifetime."""
    assert 2.4 <= build_entry(token=build_token(lifetime=30), failure=build_failure(), failures=9).back_off <= 3


def test_a_running_renewal_is_a_back_off_while_its_token_can_be_served() -> None:
    """It lasts as long as a request may take."""
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)):
        renewing = Entry.of_token("a-key", "words", build_token()).with_renewal()
        assert 16 <= renewing.back_off_left() <= 20
        assert renewing.with_failure(build_failure()).back_off_left() <= 5
    with freeze_time(datetime.fromtimestamp(NOW + 12 * HOUR, timezone.utc)):
        assert replace(renewing, recorded_at=NOW + 12 * HOUR).back_off_left() == 0


def test_a_token_without_a_lifetime_has_no_negative_back_off() -> None:
    """A damaged file may contain one."""
    assert build_entry(token=build_token(lifetime=-1), failure=build_failure(), failures=1).back_off == 0


def test_there_is_no_back_off_without_a_failure() -> None:
    assert build_entry(token=build_token()).back_off == 0


@freeze_time("2027-01-15")
def test_the_back_off_runs_down_and_ends() -> None:
    """From the moment the failure was recorded."""
    entry = Entry("a-key").with_failure(build_failure())
    with freeze_time("2027-01-15 00:00:03"):
        assert entry.back_off_left() == pytest.approx(entry.back_off - 3, abs=0.1)
    with freeze_time("2027-01-15 00:00:05"):
        assert entry.back_off_left() == 0


def test_failures_in_a_row_are_counted_and_a_token_clears_them() -> None:
    """A failure keeps the last token."""
    token = build_token()
    failed = Entry.of_token("a-key", "words", token).with_failure(build_failure()).with_failure(build_failure())

    assert (failed.failures, failed.failure, failed.token) == (2, build_failure(), token)
    assert Entry.of_token("a-key", "words", token).failures == 0


@pytest.mark.parametrize(
    ("token", "failures", "until"),
    [
        (None, 0, float("-inf")),
        (build_token(), 0, 11.75 * HOUR),
        (build_token(), 1, 11.75 * HOUR),
        (None, 1, 5 + LONGEST_BACK_OFF_SECONDS),
        (build_token(lifetime=30), 1, 3 + LONGEST_BACK_OFF_SECONDS),
    ],
)
def test_an_entry_expires_when_its_token_is_too_old_and_its_count_of_failures_ends(
    token: EcrToken | None, failures: int, until: float
) -> None:
    """A failure is kept for 120 s after its back-off, so that the next one is counted as one in a row."""
    entry = build_entry(token=token, failure=build_failure() if failures else None, failures=failures)

    assert entry.expires_at == pytest.approx(NOW + until, abs=1.5)


@pytest.mark.parametrize(
    "entry",
    [
        build_entry(token=build_token()),
        build_entry(failure=build_failure(), failures=3, key=""),
        build_entry(token=build_token(registry=None), failure=build_failure(), failures=1, age=0.1),
    ],
)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert Entry.from_json(entry.to_json()) == entry


def damaged(change: Callable[[Any], object]) -> bytes:
    fields = json.loads(build_entry(token=build_token(), failure=build_failure(), failures=1).to_json())
    change(fields)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 50_000,
        build_entry(token=build_token()).to_json()[:-1],
        damaged(lambda fields: fields.update(format=1)),
        damaged(lambda fields: fields.update(format=2)),
        damaged(lambda fields: fields.update(more=1)),
        damaged(lambda fields: fields.pop("recorded_at")) + b"x",
        damaged(lambda fields: fields.update(recorded_at="now")),
        damaged(lambda fields: fields.update(uptime=None)),
        damaged(lambda fields: fields.update(uptime=float("nan"))),
        damaged(lambda fields: fields.update(failures=float("inf"))),
        damaged(lambda fields: fields.update(failures="many")),
        damaged(lambda fields: fields.update(token="a-token")),
        damaged(lambda fields: fields["token"].pop("password")),
        damaged(lambda fields: fields["token"].update(password=None)),
        damaged(lambda fields: fields["token"].update(registry=False)),
        damaged(lambda _: None).replace(b"a-token", b"\xed\xa0\x80"),
        damaged(lambda fields: fields["token"].update(received_at=-(10**308), expires_at=10**308)),
        damaged(lambda fields: fields["token"].update(expires_at=float("inf"))),
        damaged(lambda fields: fields["token"].update(expires_at=10**400)),
        damaged(lambda fields: fields["token"].update(received_at=10**400, expires_at=10**400 + 1)),
        damaged(lambda fields: fields["token"].update(jitter=0.5)),
        damaged(lambda fields: fields["token"].update(username=None)),
        damaged(lambda fields: fields["failure"].update(code=1)),
    ],
)
def test_other_bytes_are_not_an_entry(text: bytes) -> None:
    """A file that is truncated, damaged or of another format is a miss."""
    assert Entry.from_json(text) is None


def test_the_jitter_is_derived_and_not_written() -> None:
    assert b"jitter" not in build_entry(token=build_token()).to_json()


def test_a_clock_that_was_set_back_does_not_make_an_entry_younger() -> None:
    """Its age is at least the host's uptime since it was recorded."""
    with freeze_time("2027-01-15"):
        entry = build_entry(token=build_token(), recorded_at=NOW, age=12 * HOUR)

        assert entry.now() == pytest.approx(NOW + 12 * HOUR, abs=1)
        assert entry.servable_token() is None
        assert replace(entry, uptime=entry.uptime + 6 * HOUR).servable_token() is not None

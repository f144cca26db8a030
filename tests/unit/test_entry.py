from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.entry import LONGEST_BACK_OFF_SECONDS, Entry
from ecr_secrets_backend.identity import AwsIdentity
from tests.unit.builders import HOUR, NOW, build_entry, build_failure, build_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.token import EcrToken


@pytest.mark.parametrize(
    ("token", "failures", "seconds"),
    [
        *((None, failures, 5 * 2 ** (failures - 1)) for failures in range(1, 6)),
        *((None, failures, 120) for failures in (6, 7, 10_000)),
        # At most a tenth of the last token's lifetime, which is negative if the file is damaged.
        (build_token(lifetime=30), 9, 3),
        (build_token(lifetime=-1), 1, 0),
    ],
)
def test_the_back_off_doubles_with_each_failure_in_a_row(token: EcrToken | None, failures: int, seconds: float) -> None:
    """It is shorter by up to a fifth, so that hosts that failed together retry apart."""
    failed = build_entry(token=token, failure=build_failure(), failures=failures)
    back_offs = [replace(failed, recorded_at=NOW + n).back_off for n in range(100)]

    assert 0.8 * seconds <= min(back_offs) <= 0.85 * seconds
    assert 0.95 * seconds <= max(back_offs) <= seconds


def test_a_running_renewal_is_a_back_off_while_its_token_can_be_served() -> None:
    """It lasts as long as a request may take."""
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)):
        renewing = Entry.of_token("a-key", "words", build_token()).with_renewal()
        assert 16 <= renewing.back_off_left() <= 20
        assert renewing.with_failure(build_failure()).back_off_left() <= 5
    with freeze_time(datetime.fromtimestamp(NOW + 12 * HOUR, timezone.utc)):
        assert replace(renewing, recorded_at=NOW + 12 * HOUR).back_off_left() == 0


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


def damaged(change: Callable[[Any], object]) -> bytes:
    fields = json.loads(build_entry(token=build_token(), failure=build_failure(), failures=1).to_json())
    change(fields)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[" * 50_000,
        build_entry(token=build_token()).to_json()[:-1],
        damaged(lambda _: None).replace(b"a-token", b"\xed\xa0\x80"),  # half of a character
        damaged(lambda fields: fields.update(format=2)),
        damaged(lambda fields: fields.update(more=1)),
        damaged(lambda fields: fields.pop("recorded_at")),
        damaged(lambda fields: fields.update(uptime=float("nan"))),
        damaged(lambda fields: fields.update(failures=float("inf"))),
        damaged(lambda fields: fields["token"].pop("password")),
        damaged(lambda fields: fields["token"].update(password=None)),
        damaged(lambda fields: fields["token"].update(username=None)),
        damaged(lambda fields: fields["token"].update(registry=False)),
        damaged(lambda fields: fields["token"].update(received_at=-(10**308), expires_at=10**308)),
        damaged(lambda fields: fields["token"].update(received_at=10**400, expires_at=10**400 + 1)),
        damaged(lambda fields: fields["failure"].update(code=1)),
    ],
)
def test_other_bytes_are_not_an_entry(text: bytes) -> None:
    """A file that is truncated, damaged or of another format is a miss."""
    assert Entry.from_json(text) is None


@pytest.mark.parametrize("value", [build_entry(), build_token(), build_failure(), AwsIdentity("ecr", None)])
def test_values_are_immutable(value: object) -> None:
    """Threads share them, so they are only replaced."""
    for name in type(value).__annotations__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)

from __future__ import annotations

import logging
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from ecr_secrets_backend import metrics
from ecr_secrets_backend.cache import Source
from ecr_secrets_backend.errors import MintError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.metrics import METRICS, Metrics
from ecr_secrets_backend.settings import MappedConnection, Settings
from tests.unit.builders import build_failure, build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.logins import Mint

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
FAILED = ["ecr_secrets_backend.lookups.error", metrics.MINT_DURATION, metrics.BACK_OFFS]


class Stats:
    """Airflow's, as far as we use it: takes note, and then does what it was told to."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._then = then

    def note(self, *call: Any, tags: dict[str, str]) -> None:
        self.calls.append((*call, tags))
        self._then()

    incr = timing = gauge = note


class Logins:
    """One login, after the mint that it takes, if any."""

    def __init__(self, source: Source, mint: Mint | None = None) -> None:
        self._source = source
        self._mint = mint

    def get(self, mapped: MappedConnection, watch: Callable[[Mint], Mint]) -> Login:
        token = build_token() if self._mint is None else watch(self._mint)()
        return Login(mapped.host or "a-registry", token, self._source)


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stats], Stats]:
    """Put something in the place of Airflow's Stats."""

    def put(stats: Stats) -> Stats:
        monkeypatch.setattr(metrics, "_stats", lambda: stats)
        return stats

    return put


def look_up(room: Metrics, logins: Any, connection: object = "123456789012.dkr.ecr.us-east-1.amazonaws.com") -> Login:
    (mapped,) = Settings.parse({"connections": {"docker_default": connection}}).connections.values()
    return room.get(logins, mapped)


@pytest.mark.parametrize("source", get_args(Source))
def test_each_source_of_a_token_has_a_metric(put: Callable[[Stats], Stats], source: Source) -> None:
    """None is lost for a name that is spelt otherwise."""
    stats = put(Stats())
    look_up(Metrics(), Logins(source))

    assert [call[0] for call in stats.calls] == [f"{metrics.LOOKUPS}{source}", metrics.SECONDS_TO_EXPIRY]
    assert {call[0] for call in stats.calls} <= METRICS.keys()


@pytest.mark.parametrize(
    ("connection", "tags"),
    [
        ({"region_name": "eu-west-1"}, {"conn_id": "docker_default", "region": "eu-west-1"}),
        ({}, {"conn_id": "docker_default"}),
    ],
)
def test_tags_tell_what_the_settings_tell(
    put: Callable[[Stats], Stats], connection: object, tags: dict[str, str]
) -> None:
    """A region that only the environment tells, or the AWS configuration, is none."""
    stats = put(Stats())
    look_up(Metrics(), Logins("process_hit"), connection)

    assert [call[-1] for call in stats.calls] == [tags, tags]


def fail() -> None:
    raise OSError("no such host")


def test_metrics_that_fail_are_told_once_and_left_alone(
    put: Callable[[Stats], Stats], caplog: pytest.LogCaptureFixture
) -> None:
    """They fail no lookup, and slow down one at the most."""
    stats, room = put(Stats(fail)), Metrics()
    tokens = [look_up(room, Logins("host_hit")).token for _ in range(3)]

    assert tokens == [build_token()] * 3
    assert len(stats.calls) == 1
    (record,) = caplog.records
    assert (record.levelno, "OSError: no such host" in record.getMessage()) == (logging.WARNING, True)


@pytest.fixture
def ever() -> Iterator[threading.Event]:
    """What does not come before the test has ended."""
    event = threading.Event()
    yield event
    event.set()


def test_metrics_that_hang_are_not_waited_for(
    put: Callable[[Stats], Stats],
    ever: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A name server may be silent when Airflow asks it where to send them."""
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.05)
    put(Stats(lambda: ever.wait(30)))

    assert look_up(Metrics(), Logins("host_hit")).token == build_token()
    assert "TimeoutError" in caplog.text


def test_a_lookup_that_fails_is_told_and_fails_as_it_would(put: Callable[[Stats], Stats]) -> None:
    """With its own cause."""
    stats, error = put(Stats()), MintError(build_failure())

    def mint() -> Any:
        raise error

    with pytest.raises(MintError) as caught:
        look_up(Metrics(), Logins("mint", mint))

    assert caught.value is error
    assert [call[0] for call in stats.calls] == FAILED


def test_a_mint_that_hangs_is_told_though_it_has_not_ended(
    put: Callable[[Stats], Stats], ever: threading.Event
) -> None:
    """As a back-off, and with the time that was waited for it."""
    stats, begun = put(Stats()), threading.Event()

    def mint() -> Any:
        begun.set()
        ever.wait(30)

    class HangingLogins(Logins):
        def get(self, _mapped: MappedConnection, watch: Callable[[Mint], Mint]) -> Login:
            threading.Thread(target=watch(mint)).start()
            begun.wait(10)
            raise MintError(build_failure())

    with pytest.raises(MintError):
        look_up(Metrics(), HangingLogins("mint"))

    assert [call[0] for call in stats.calls] == FAILED
    assert timedelta(0) < stats.calls[1][1] < timedelta(seconds=30)


def test_the_page_tells_each_metric() -> None:
    """By its name, its type and its meaning, and no other."""
    rows = re.findall(r"^\| `(ecr_\S+)` \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)

    assert rows == [(name, *metric) for name, metric in METRICS.items()]

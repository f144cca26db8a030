from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cache import (
    BACK_OFF_SECONDS,
    HOST_PATIENCE_SECONDS,
    RENEWAL_BACK_OFF_SECONDS,
    WARN_EVERY_SECONDS,
    Entry,
    ProcessLayer,
    TokenCache,
    uptime,
)
from ecr_secrets_backend.errors import MintError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.unit.builders import NOW, TWELVE_HOURS, build_entry, build_failure, build_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ecr_secrets_backend.errors import MintFailure
    from ecr_secrets_backend.token import EcrToken

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
OTHER = replace(IDENTITY, profile_name="other")
OF_ANOTHER = build_entry(token=build_token(), key=OTHER.key)
HOUR = 3600.0


class Aws:
    """Mints tokens by the test's clock, counts them, and fails on demand."""

    def __init__(self) -> None:
        self.now = NOW
        self.calls = 0
        self.fails = False
        self.life = TWELVE_HOURS

    def clock(self) -> float:
        return self.now

    def mint(self) -> EcrToken:
        self.calls += 1
        if self.fails:
            raise MintError(build_failure())
        return build_token(minted_at=self.now, life=self.life, password=f"token {self.calls}")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a renewal here does not take too long, but where a test is about that."""
    monkeypatch.setattr("ecr_secrets_backend.cache.RENEWAL_PATIENCE_SECONDS", 30.0)


@pytest.fixture
def aws() -> Aws:
    return Aws()


@pytest.fixture
def new_process(aws: Aws, tmp_path: Path) -> Callable[[], Callable[[], str]]:
    """Make what a process of the host sees: a lookup that gives the token's password."""

    def build() -> Callable[[], str]:
        cache = TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock)
        return lambda: cache.get(IDENTITY, aws.mint)[0].password

    return build


def test_one_mint_serves_every_process_for_a_life(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """As long as it is fresh, a token is minted once, whoever asks."""
    served = {new_process()()}
    aws.now += 11 * HOUR - 1

    assert served | {new_process()()} == {"token 1"}
    assert aws.calls == 1


def test_what_is_kept_is_not_served_to_its_end(aws: Aws, tmp_path: Path) -> None:
    """While AWS fails, whoever keeps a token for a quarter of an hour is refused it as much sooner than others."""
    keeper, other = (
        TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock, kept_for)
        for kept_for in (lambda: HOUR / 4, lambda: 0.0)
    )
    other.get(IDENTITY, aws.mint)
    aws.now += 11.75 * HOUR - 301
    aws.fails = True

    assert keeper.get(IDENTITY, aws.mint)[0].password == "token 1"
    aws.now += 1
    with pytest.raises(MintError):
        keeper.get(IDENTITY, aws.mint)
    assert other.get(IDENTITY, aws.mint)[0].password == "token 1"


@pytest.mark.parametrize("who", [0, 1])
def test_what_is_kept_is_renewed_as_much_sooner(aws: Aws, tmp_path: Path, who: int) -> None:
    """By the process that has minted it, and by one that finds it on the host."""
    processes = [
        TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock, lambda: HOUR / 4) for _ in range(2)
    ]
    processes[0].get(IDENTITY, aws.mint)
    aws.now += 10.75 * HOUR - 1
    assert processes[0].get(IDENTITY, aws.mint)[0].password == "token 1"
    aws.now += 1

    assert processes[who].get(IDENTITY, aws.mint)[0].password == "token 2"


def test_a_process_does_not_look_at_the_host_while_its_token_is_fresh(
    new_process: Callable[[], Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hit path touches no file, whether the process minted the token or found it."""
    who_minted, who_found = new_process(), new_process()
    who_minted()
    who_found()
    monkeypatch.setattr(HostStore, "_open_folder", lambda _: pytest.fail("a look at the host"))

    assert (who_minted(), who_found()) == ("token 1", "token 1")


@pytest.mark.parametrize(("age", "fails"), [(0, False), (11.5 * HOUR, True)])
def test_nobody_takes_a_turn_for_what_the_host_knows(
    aws: Aws,
    new_process: Callable[[], Callable[[], str]],
    monkeypatch: pytest.MonkeyPatch,
    age: float,
    fails: bool,
) -> None:
    """A token that is fresh, or that serves while AWS is not to be asked, costs a look at a file."""
    new_process()()
    aws.now += age
    aws.fails = fails
    new_process()()
    monkeypatch.setattr(HostStore, "turn", lambda *_: pytest.fail("a turn was taken"))

    assert new_process()() == "token 1"


def test_a_stale_token_is_renewed_by_one(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """The first lookup within refresh_before of the end renews, and the others are served what it got."""
    first, second = new_process(), new_process()
    first()
    second()
    aws.now += 11 * HOUR

    assert (first(), second(), new_process()()) == ("token 2", "token 2", "token 2")
    assert aws.calls == 2


def test_a_dead_token_is_replaced(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """Within the last minutes of its life, and after."""
    lookup = new_process()
    lookup()
    aws.now += 12 * HOUR - 300

    assert lookup() == "token 2"


def test_while_aws_fails_a_live_token_is_served_with_a_warning(
    aws: Aws, new_process: Callable[[], Callable[[], str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning, of a logger of the package, says how long it will last, and why; the token is not in it."""
    lookup = new_process()
    lookup()
    aws.now += 11.5 * HOUR
    aws.fails = True

    assert lookup() == "token 1"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ecr_secrets_backend.cache", logging.WARNING)
    assert "1800 s" in record.message
    assert "AccessDeniedException" in record.message
    assert "token 1" not in caplog.text


def test_while_aws_fails_it_is_asked_once_in_a_back_off(
    aws: Aws, new_process: Callable[[], Callable[[], str]], caplog: pytest.LogCaptureFixture
) -> None:
    """By the whole host; and a process warns once a minute."""
    lookup = new_process()
    lookup()
    aws.now += 11 * HOUR
    aws.fails = True
    for _ in range(10):
        lookup()
        new_process()()
        aws.now += (RENEWAL_BACK_OFF_SECONDS - 1) / 10
    assert aws.calls == 2

    aws.now += 1
    lookup()

    assert aws.calls == 3
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 11  # processes


def test_a_process_says_so_again_after_a_minute(
    aws: Aws,
    new_process: Callable[[], Callable[[], str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An outage is neither silent nor a flood."""
    monkeypatch.setattr("time.monotonic", lambda: aws.now)
    lookup = new_process()
    lookup()
    aws.now += 11 * HOUR
    aws.fails = True
    for _ in range(3 * 60):
        aws.now += 1
        lookup()

    assert len(caplog.records) == 180 / WARN_EVERY_SECONDS


def test_every_identity_has_its_own_warning(aws: Aws, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails does not silence another."""
    cache = TokenCache(None, HOUR, ProcessLayer(), aws.clock)
    for later in (0, 11 * HOUR):
        aws.now += later
        aws.fails = bool(later)
        for identity in (IDENTITY, OTHER):
            cache.get(identity, aws.mint)

    assert len(caplog.records) == 2


def test_a_dead_token_is_not_served_though_aws_fails(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """Better an error that names the cause than a token that the registry refuses."""
    lookup = new_process()
    lookup()
    aws.now += 12 * HOUR - 300
    aws.fails = True

    with pytest.raises(MintError):
        lookup()


def test_a_cold_failure_is_repeated_without_asking_again(
    aws: Aws, new_process: Callable[[], Callable[[], str]]
) -> None:
    """The next callers of the host get the same cause for nothing."""
    aws.fails = True
    for _ in range(5):
        with pytest.raises(MintError) as caught:
            new_process()()
        assert caught.value.failure == build_failure()
        aws.now += (BACK_OFF_SECONDS - 1) / 5

    assert aws.calls == 1


def test_the_back_off_is_short_again_when_the_old_token_is_dead(
    aws: Aws, new_process: Callable[[], Callable[[], str]]
) -> None:
    """Then somebody minds."""
    lookup = new_process()
    lookup()
    aws.now += 12 * HOUR - 300 - BACK_OFF_SECONDS
    aws.fails = True
    lookup()
    aws.fails = False
    aws.now += BACK_OFF_SECONDS

    assert lookup() == "token 3"


@pytest.mark.parametrize("later", [BACK_OFF_SECONDS, HOUR])
def test_recovery_is_noticed_after_the_back_off(
    aws: Aws, new_process: Callable[[], Callable[[], str]], later: float
) -> None:
    """No restart, no clearing, however much later."""
    lookup = new_process()
    aws.fails = True
    with pytest.raises(MintError):
        lookup()
    aws.fails = False
    aws.now += later

    assert lookup() == "token 2"


def test_what_another_process_got_ends_the_back_off(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """A process that has met a failure looks at the host before it repeats it."""
    lookup = new_process()
    aws.fails = True
    with pytest.raises(MintError):
        lookup()
    aws.fails = False
    aws.now += BACK_OFF_SECONDS
    new_process()()
    aws.now -= 1

    assert lookup() == "token 2"


def test_a_process_backs_off_though_the_host_does_not_remember(
    aws: Aws, new_process: Callable[[], Callable[[], str]], tmp_path: Path
) -> None:
    """What the process knows is newer than a file that could not be replaced."""
    lookup = new_process()
    lookup()
    (file,) = tmp_path.rglob("*.json")
    old = file.read_bytes()
    aws.now += 11 * HOUR
    aws.fails = True
    for _ in range(3):
        lookup()
        file.write_bytes(old)

    assert aws.calls == 2


def test_the_back_off_of_a_short_life_is_short(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """A token of thirty seconds survives a fault of one."""
    aws.life = 30
    lookup = new_process()
    lookup()
    aws.now += 15
    aws.fails = True
    lookup()
    aws.fails = False
    aws.now += 3

    assert lookup() == "token 3"


def test_a_clock_that_was_set_back_costs_nothing(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """A token is as old as the host's uptime says."""
    known = new_process()
    known()
    aws.now -= 2 * HOUR

    assert (known(), new_process()()) == ("token 1", "token 1")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("failure", [None, build_failure()])
def test_a_clock_that_was_set_back_does_not_prolong_a_token(
    aws: Aws, tmp_path: Path, new_process: Callable[[], Callable[[], str]], failure: MintFailure | None, fails: bool
) -> None:
    """Ten hours of its twelve have passed, and two more, while the clock was set back by ten."""
    aged = build_entry(token=build_token(), failure=failure, key=IDENTITY.key, age=12 * HOUR)
    HostStore(str(tmp_path)).write(f"{IDENTITY.key}.json", aged.to_json())
    aws.now += 2 * HOUR
    aws.fails = fails

    for _ in range(2):
        with pytest.raises(MintError) if fails else nullcontext():
            assert new_process()() == "token 1"
    assert aws.calls == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_token_does_not_outlive_failures_by_a_clock_that_was_set_back(
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    new_process: Callable[[], Callable[[], str]],
    fails: bool,
) -> None:
    """What is recorded after the clock was set, and what is said of the time left, is told by the clock of before."""
    up = uptime()
    monkeypatch.setattr("ecr_secrets_backend.cache.uptime", lambda: up)
    look_up = new_process()
    look_up()
    aws.now -= 10 * HOUR
    up += 11.5 * HOUR
    aws.fails = True
    assert (look_up(), new_process()()) == ("token 1", "token 1")
    assert all("the old one serves for 1800 s more" in line for line in caplog.messages)
    up += 0.5 * HOUR
    aws.fails = fails

    with pytest.raises(MintError) if fails else nullcontext():
        assert (new_process()(), look_up()) == ("token 3", "token 3")


def test_a_clock_that_is_set_back_while_aws_answers_does_not_prolong_a_token(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_process: Callable[[], Callable[[], str]]
) -> None:
    """What is recorded goes by the clock that told the token's times."""
    up = uptime()
    monkeypatch.setattr("ecr_secrets_backend.cache.uptime", lambda: up)

    def mint() -> EcrToken:
        token = aws.mint()
        aws.now -= 10 * HOUR
        return token

    TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock).get(IDENTITY, mint)
    up += 12 * HOUR

    assert new_process()() == "token 2"


def test_a_failure_does_not_block_for_longer_when_the_clock_was_set_back(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, new_process: Callable[[], Callable[[], str]]
) -> None:
    """The back-off is told by the host's uptime."""
    up = uptime()
    monkeypatch.setattr("ecr_secrets_backend.cache.uptime", lambda: up)
    aws.fails = True
    with pytest.raises(MintError):
        new_process()()
    aws.fails = False
    aws.now -= HOUR
    up += BACK_OFF_SECONDS

    assert new_process()() == "token 2"


@pytest.mark.parametrize("outcome", [{"token": build_token()}, {"failure": build_failure()}])
def test_what_an_earlier_start_of_the_host_recorded_in_the_future_is_forgotten(
    aws: Aws, tmp_path: Path, new_process: Callable[[], Callable[[], str]], outcome: dict[str, Any]
) -> None:
    """How long ago it was recorded nobody can tell: it neither serves nor blocks, and is replaced once."""
    entry = build_entry(**outcome, key=IDENTITY.key, recorded_at=NOW, age=-HOUR)
    HostStore(str(tmp_path)).write(f"{IDENTITY.key}.json", entry.to_json())
    aws.now -= HOUR

    assert [new_process()() for _ in range(3)] == ["token 1"] * 3
    assert aws.calls == 1


def test_without_a_host_layer_each_process_mints_once(aws: Aws) -> None:
    """As ``cache = "process"`` says."""
    caches = [TokenCache(None, HOUR, ProcessLayer(), aws.clock) for _ in range(2)]
    for cache in caches * 2:
        cache.get(IDENTITY, aws.mint)

    assert aws.calls == 2


def test_identities_do_not_share(aws: Aws, tmp_path: Path) -> None:
    """Another identity, another token."""
    cache = TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock)

    assert cache.get(IDENTITY, aws.mint)[0] != cache.get(OTHER, aws.mint)[0]


@pytest.mark.parametrize("age", [0, 11 * HOUR])
def test_identities_do_not_wait_for_each_other(aws: Aws, tmp_path: Path, age: float) -> None:
    """While the mint of one hangs, another gets its token, the first or a new one."""
    cache = TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock)
    if age:
        for identity in (IDENTITY, OTHER):
            cache.get(identity, aws.mint)
    aws.now += age
    asked, answer = threading.Event(), threading.Event()

    def mint_slowly() -> EcrToken:
        asked.set()
        assert answer.wait(10)
        return aws.mint()

    hanging = threading.Thread(target=cache.get, args=(IDENTITY, mint_slowly))
    hanging.start()
    assert asked.wait(10)
    try:
        assert cache.get(OTHER, aws.mint)[0].minted_at == aws.now
    finally:
        answer.set()
        hanging.join()


def test_threads_that_come_together_mint_once(aws: Aws, new_process: Callable[[], Callable[[], str]]) -> None:
    """One asks AWS; the others wait for its answer."""
    lookup = new_process()
    everybody = threading.Barrier(20)
    served = []

    def work() -> None:
        everybody.wait()
        served.append(lookup())

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert served == ["token 1"] * 20
    assert aws.calls == 1


def test_nobody_waits_for_a_renewal(aws: Aws, tmp_path: Path) -> None:
    """While one thread renews a stale token, another thread and another process are served the old one."""
    store = HostStore(str(tmp_path))
    cache, other = (TokenCache(store, HOUR, ProcessLayer(), aws.clock) for _ in range(2))
    cache.get(IDENTITY, aws.mint)
    aws.now += 11 * HOUR
    asked, answer = threading.Event(), threading.Event()

    def mint_slowly() -> EcrToken:
        asked.set()
        assert answer.wait(10)
        return aws.mint()

    renewal = threading.Thread(target=cache.get, args=(IDENTITY, mint_slowly))
    renewal.start()
    assert asked.wait(10)
    try:
        served = [process.get(IDENTITY, aws.mint)[0].password for process in (cache, other)]
    finally:
        answer.set()
        renewal.join()

    assert served == ["token 1", "token 1"]
    assert cache.get(IDENTITY, aws.mint)[0].password == "token 2"


def test_whoever_holds_the_turn_too_long_is_not_waited_for(
    new_process: Callable[[], Callable[[], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A holder that was stopped costs the patience, and then a mint; and a warning, when it is late."""
    waited: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: NOW + sum(waited))
    monkeypatch.setattr("time.sleep", waited.append)

    with HostStore(str(tmp_path)).turn(IDENTITY.key) as is_ours:
        assert is_ours
        assert new_process()() == "token 1"

    assert HOST_PATIENCE_SECONDS <= sum(waited) < HOST_PATIENCE_SECONDS + 1
    (record,) = caplog.records
    assert "does not get on" in record.message


@pytest.mark.parametrize("age", [0, 11 * HOUR])
def test_who_gets_the_turn_after_another_takes_what_that_one_minted(
    aws: Aws, new_process: Callable[[], Callable[[], str]], monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Between a look at the host and the turn there is time for a whole mint."""
    if age:
        new_process()()
        aws.now += age
    calls = aws.calls
    take_turn = HostStore.turn

    def take_turn_late(store: HostStore, name: str) -> AbstractContextManager[bool]:
        monkeypatch.setattr(HostStore, "turn", take_turn)
        new_process()()
        return take_turn(store, name)

    monkeypatch.setattr(HostStore, "turn", take_turn_late)

    assert new_process()() == f"token {calls + 1}"
    assert aws.calls == calls + 1


@pytest.mark.parametrize(("age", "kept_for"), [(None, 0.0), (12 * HOUR, 0.0), (11.75 * HOUR, HOUR / 4)])
def test_who_waits_for_the_turn_takes_the_token_that_comes(
    aws: Aws,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    age: float | None,
    kept_for: float,
) -> None:
    """It does not need the turn for that: all who wait leave together, nobody complains, nor is served what is dead."""
    store = HostStore(str(tmp_path))
    if age is not None:
        old = build_token(minted_at=NOW - age, password="dead")
        entry = build_entry(token=old, recorded_at=old.minted_at, key=IDENTITY.key)
        store.write(f"{IDENTITY.key}.json", entry.to_json())
    cache = TokenCache(store, HOUR, ProcessLayer(), aws.clock, lambda: kept_for)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        store.write(f"{IDENTITY.key}.json", build_entry(token=build_token(), key=IDENTITY.key).to_json())

    monkeypatch.setattr("time.monotonic", lambda: sum(waited))
    monkeypatch.setattr("time.sleep", sleep)
    with store.turn(IDENTITY.key):
        assert cache.get(IDENTITY, aws.mint)[0].password == "a-token"

    assert len(waited) == 1
    assert not caplog.records


def test_who_waits_looks_soon_at_first_and_then_seldom(
    new_process: Callable[[], Callable[[], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, for a token that comes soon; ten to twenty times a second, and not in step, for the crowd's sake."""
    waited: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: sum(waited))
    monkeypatch.setattr("time.sleep", waited.append)
    with HostStore(str(tmp_path)).turn(IDENTITY.key):
        new_process()()

    assert waited[0] < 0.005
    assert sum(waited[:8]) < 0.1
    assert all(0.05 <= pause <= 0.1 for pause in waited[20:])
    assert len(set(waited)) == len(waited)


def test_a_renewal_that_hangs_is_not_waited_for(
    aws: Aws,
    new_process: Callable[[], Callable[[], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The old token is served, by all; the new one is there when AWS has answered after all."""
    monkeypatch.setattr("ecr_secrets_backend.cache.RENEWAL_PATIENCE_SECONDS", 0.05)
    cache = TokenCache(HostStore(str(tmp_path)), HOUR, process := ProcessLayer(), aws.clock)
    cache.get(IDENTITY, aws.mint)
    aws.now += 11 * HOUR
    answer = threading.Event()

    def mint_slowly() -> EcrToken:
        assert answer.wait(10)
        return aws.mint()

    assert cache.get(IDENTITY, mint_slowly)[0].password == "token 1"
    assert "there was no answer within 0 s" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(HostStore, "turn", lambda *_: pytest.fail("a turn was taken"))
        assert new_process()() == "token 1"
    answer.set()
    with process.turn(IDENTITY.key):
        assert cache.get(IDENTITY, aws.mint)[0].password == "token 2"


@pytest.mark.parametrize(("later", "kept_for"), [(HOUR, 0.0), (0.75 * HOUR, HOUR / 4)])
def test_a_token_that_dies_while_it_is_renewed_is_not_served_and_the_new_one_is(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, later: float, kept_for: float
) -> None:
    """From then on there is nothing to serve but what comes, so it is waited for."""
    monkeypatch.setattr("ecr_secrets_backend.cache.RENEWAL_PATIENCE_SECONDS", 0.05)
    cache = TokenCache(None, HOUR, process := ProcessLayer(), aws.clock, lambda: kept_for)
    cache.get(IDENTITY, aws.mint)
    aws.now += 11 * HOUR
    answer = threading.Event()

    class Turn:
        lock = threading.Lock()
        release = lock.release

        def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                answer.set()
            return self.lock.acquire(blocking, timeout)

    def mint_slowly() -> EcrToken:
        aws.now += later
        assert answer.wait(10)
        return aws.mint()

    turn = Turn()
    monkeypatch.setattr(process, "turn", lambda _: turn)

    assert cache.get(IDENTITY, mint_slowly)[0].password == "token 2"


def test_a_mint_that_hangs_is_not_waited_for_without_end(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure says so; whoever comes next is told the same, and does not wait, in whichever process."""
    monkeypatch.setattr("ecr_secrets_backend.cache.LOOKUP_PATIENCE_SECONDS", 0.05)
    one, other = (TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock) for _ in range(2))
    asked, answer = [], threading.Event()

    def mint_slowly() -> EcrToken:
        asked.append(True)
        assert answer.wait(10)
        return aws.mint()

    for cache in (one, one, other):
        with pytest.raises(MintError) as caught:
            cache.get(IDENTITY, mint_slowly)
        monkeypatch.setattr(HostStore, "turn", lambda *_: pytest.fail("a turn was taken"))
        assert (caught.value.failure.code, caught.value.failure.region) == ("TimedOut", "us-east-1")
        assert caught.value.failure.identity == str(IDENTITY)
        assert caught.value.failure.reason == "there was no answer within 0 s"
        assert "what hangs" in caught.value.failure.remedy
    answer.set()
    assert len(asked) <= 1  # or the thread has begun when all was over


def test_a_thread_that_hangs_is_not_waited_for_without_end(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failure is that of the threads that wait for it."""
    monkeypatch.setattr("ecr_secrets_backend.cache.LOOKUP_PATIENCE_SECONDS", 0.05)
    cache = TokenCache(None, HOUR, process := ProcessLayer(), aws.clock)

    nowhere = replace(IDENTITY, region=None)

    with process.turn(nowhere.key), pytest.raises(MintError, match=r"no answer within 0 s .*region: none\)"):
        cache.get(nowhere, aws.mint)
    assert aws.calls == 0


@pytest.mark.parametrize("age", [0, 11 * HOUR])
def test_what_comes_while_another_thread_hangs_is_served(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age: float
) -> None:
    """As from a process that did not hang; with a warning if it is to be renewed."""
    store = HostStore(str(tmp_path))
    aws.now += age
    entry = build_entry(token=build_token(), recorded_at=aws.now, key=IDENTITY.key)

    class LongTurn:
        def acquire(self, timeout: float) -> bool:
            store.write(f"{IDENTITY.key}.json", entry.to_json())
            return timeout < 0

    monkeypatch.setattr(ProcessLayer, "turn", lambda *_: LongTurn())
    cache = TokenCache(store, HOUR, ProcessLayer(), aws.clock)

    assert cache.get(IDENTITY, aws.mint)[0] == build_token()
    assert ["no answer" in message for message in caplog.messages] == [True] * bool(age)
    assert aws.calls == 0


def test_a_process_ends_though_a_mint_hangs() -> None:
    """Nobody waits for an answer that no lookup waits for."""
    program = """if True:
        import time
        from ecr_secrets_backend import cache
        from ecr_secrets_backend.errors import MintError
        from ecr_secrets_backend.identity import AwsIdentity
        cache.LOOKUP_PATIENCE_SECONDS = 0.05
        try:
            cache.TokenCache(None, 0).get(AwsIdentity("ecr", "us-east-1"), lambda: time.sleep(60))
        except MintError as error:
            print(error.failure.code)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert run.stdout == "TimedOut\n"


def test_a_child_begins_with_no_turn_taken() -> None:
    """The thread that had it when the child was forked is not in the child, and would never give it up."""
    process = ProcessLayer()
    process.survive_forks()
    assert process.turn("key").acquire(blocking=False)
    child = os.fork()
    if child == 0:
        is_free = process.turn("key").acquire(blocking=False)
        process.put("key", Entry())
        os._exit(0 if is_free else 1)
    process.put("key", Entry())

    assert os.waitpid(child, 0) == (child, 0)
    assert not process.turn("key").acquire(blocking=False)


def test_what_one_process_keeps_is_bounded() -> None:
    """Identities that change without end do not fill the memory."""
    process = ProcessLayer()
    for number in range(10_000):
        process.put(str(number), Entry())

    assert process.get("0") is None
    assert process.get("9999") is not None


def test_threads_that_write_at_once_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when each entry takes another one's place."""
    monkeypatch.setattr("ecr_secrets_backend.cache._MOST_ENTRIES", 1)
    process = ProcessLayer()

    def write(thread: str) -> None:
        for number in range(30_000):
            process.put(f"{thread} {number}", Entry())

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor() as threads:
            assert list(threads.map(write, "abcd")) == [None] * 4
    finally:
        sys.setswitchinterval(usual)


def test_a_process_that_may_have_no_more_threads_mints_without(
    aws: Aws, new_process: Callable[[], Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is about to end."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", fail)

    assert new_process()() == "token 1"
    assert aws.calls == 1


@pytest.mark.parametrize(
    "entry",
    [
        build_entry(token=build_token()),
        build_entry(failure=build_failure(), key=""),
        build_entry(token=build_token(registry=None), failure=build_failure(), age=0.1),
    ],
)
def test_an_entry_reads_as_it_was_written(entry: Entry) -> None:
    """A file holds all of it."""
    assert Entry.from_json(entry.to_json()) == entry


def damaged(change: Callable[[Any], object]) -> bytes:
    fields = json.loads(build_entry(token=build_token(), failure=build_failure()).to_json())
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
        damaged(lambda fields: fields.update(format=0)),
        damaged(lambda fields: fields.update(format=2)),
        damaged(lambda fields: fields.update(more=1)),
        damaged(lambda fields: fields.pop("recorded_at")) + b"x",
        damaged(lambda fields: fields.update(recorded_at="now")),
        damaged(lambda fields: fields.update(uptime=None)),
        damaged(lambda fields: fields.update(uptime=float("nan"))),
        damaged(lambda fields: fields.update(token="a-token")),
        damaged(lambda fields: fields["token"].pop("password")),
        damaged(lambda fields: fields["token"].update(password=None)),
        damaged(lambda fields: fields["token"].update(registry=False)),
        damaged(lambda _: None).replace(b"a-token", b"\xed\xa0\x80"),
        damaged(lambda fields: fields["token"].update(minted_at=-(10**308), expires_at=10**308)),
        damaged(lambda fields: fields["token"].update(expires_at=float("inf"))),
        damaged(lambda fields: fields["token"].update(expires_at=10**400)),
        damaged(lambda fields: fields["token"].update(minted_at=10**400, expires_at=10**400 + 1)),
        damaged(lambda fields: fields["token"].update(jitter=float("nan"))),
        damaged(lambda fields: fields["token"].update(username=None)),
        damaged(lambda fields: fields["failure"].update(code=1)),
    ],
)
def test_other_bytes_are_no_entry(text: bytes) -> None:
    """Cut short, garbage, another shape or another version: a miss."""
    assert Entry.from_json(text) is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_bytes(b"garbage"), "a file of the cache is damaged, or of another version"),
        (lambda file: file.write_bytes(OF_ANOTHER.to_json()), "a file of the cache is damaged, or of another version"),
        (lambda file: file.chmod(0o640), "a file of the cache is open to other users"),
    ],
)
def test_a_file_that_is_not_to_be_used_is_reported_once_and_healed(
    new_process: Callable[[], Callable[[], str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    problem: str,
) -> None:
    """The lookup succeeds by minting, and the next process finds a sound file."""
    new_process()()
    (file,) = tmp_path.rglob("*.json")
    damage(file)

    assert new_process()() == "token 2"
    assert new_process()() == "token 2"
    (message,) = caplog.messages
    assert f": {problem}. See what" in message


def test_a_cache_that_cannot_be_used_is_reported_once(
    aws: Aws, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lookup succeeds by minting, once per process."""
    file = tmp_path / "file"
    file.touch()
    cache = TokenCache(HostStore(str(file)), HOUR, ProcessLayer(), aws.clock)
    for _ in range(3):
        cache.get(IDENTITY, aws.mint)

    assert aws.calls == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(file) in caplog.text
    assert "Not a directory" in caplog.text


def test_every_fault_of_the_cache_is_reported(
    new_process: Callable[[], Callable[[], str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One does not hide another."""
    new_process()()
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(b"garbage")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail_otherwise(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(HostStore, "write", fail)
    monkeypatch.setattr(HostStore, "turn", fail_otherwise)
    new_process()()
    assert [re.findall("more often: (.*?)\\.", message)[0] for message in caplog.messages] == [
        "a file of the cache is damaged, or of another version",
        "No locks available",
        "No space left on device",
    ]


def test_an_entry_says_in_words_whose_it_is(aws: Aws, tmp_path: Path) -> None:
    """For whoever looks into the cache: an entry's name tells nothing."""
    cache = TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock)
    cache.get(OTHER, aws.mint)
    aws.fails = True
    with suppress(MintError):
        cache.get(IDENTITY, aws.mint)

    entries = [Entry.from_json(file.read_bytes()) for file in tmp_path.glob("*/*.json")]
    assert {entry.identity for entry in entries if entry} == {"profile other", build_failure().identity}


@pytest.mark.parametrize(
    ("token", "later", "left"),
    [(None, 0, BACK_OFF_SECONDS), (None, BACK_OFF_SECONDS + 1, 0), (build_token(life=50), 2, 3)],
)
def test_an_entry_tells_how_long_aws_is_left_alone(token: EcrToken | None, later: float, left: float) -> None:
    """After a failure, and no longer than a tenth of the old token's life."""
    entry = Entry(token, build_failure(), NOW, uptime())

    assert entry.pause_left(NOW + later) == pytest.approx(left, abs=0.5)
    assert replace(entry, failure=None).pause_left(NOW + later) == 0


def test_each_lookup_is_told_where_its_token_comes_from(aws: Aws, tmp_path: Path) -> None:
    """From AWS by the one who minted it, then from its process, and from the host by another process."""
    one, other = (TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock) for _ in range(2))
    sources = [cache.get(IDENTITY, aws.mint)[1] for cache in (one, one, other, other)]

    assert sources == ["mint", "process_hit", "host_hit", "process_hit"]


def test_whoever_is_served_the_old_token_is_told_so(aws: Aws) -> None:
    """Whether AWS has just failed for it or for another."""
    cache = TokenCache(None, HOUR, ProcessLayer(), aws.clock)
    cache.get(IDENTITY, aws.mint)
    aws.now += 11 * HOUR
    aws.fails = True

    assert [cache.get(IDENTITY, aws.mint)[1] for _ in range(2)] == ["stale", "stale"]
    assert aws.calls == 2


def test_a_renewal_is_told_as_a_mint_and_to_others_meanwhile_as_stale(aws: Aws, tmp_path: Path) -> None:
    """So that mints are as many as AWS's tokens."""
    cache, other = (TokenCache(HostStore(str(tmp_path)), HOUR, ProcessLayer(), aws.clock) for _ in range(2))
    cache.get(IDENTITY, aws.mint)
    aws.now += 11 * HOUR
    meanwhile: list[str] = []

    def mint() -> EcrToken:
        meanwhile.append(other.get(IDENTITY, aws.mint)[1])
        return aws.mint()

    assert cache.get(IDENTITY, mint)[1] == "mint"
    assert meanwhile == ["stale"]


def test_whoever_waits_for_another_threads_mint_is_not_told_to_have_minted(aws: Aws) -> None:
    """One is, whoever else waits."""
    cache = TokenCache(None, HOUR, ProcessLayer(), aws.clock)
    ready = threading.Barrier(4)

    def look_up() -> str:
        ready.wait(10)
        return cache.get(IDENTITY, aws.mint)[1]

    with ThreadPoolExecutor(4) as threads:
        sources = [lookup.result(10) for lookup in [threads.submit(look_up) for _ in range(4)]]

    assert sources.count("mint") == 1
    assert {*sources} <= {"mint", "host_hit", "process_hit"}

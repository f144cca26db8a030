from __future__ import annotations

import errno
import linecache
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from ecr_secrets_backend import cache as cache_module
from ecr_secrets_backend import credentials
from ecr_secrets_backend.cache import (
    LOCK_TIMEOUT_SECONDS,
    LOOKUP_TIMEOUT_SECONDS,
    RENEWAL_TIMEOUT_SECONDS,
    WARNING_INTERVAL_SECONDS,
    Memory,
    TokenCache,
)
from ecr_secrets_backend.cli.cache_folder import CacheFolder
from ecr_secrets_backend.cli.clear import delete
from ecr_secrets_backend.entry import (
    BACK_OFF_SECONDS,
    LONGEST_BACK_OFF_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    Entry,
    uptime,
)
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.unit.builders import HOUR, NOW, TWELVE_HOURS, build_entry, build_failure, build_token
from tests.unit.descriptors import cache_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.errors import TokenFailure
    from ecr_secrets_backend.host_lock import HostLock
    from ecr_secrets_backend.token import EcrToken

    Process = Callable[[], str]

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
OTHER = replace(IDENTITY, profile_name="other")
OF_ANOTHER = build_entry(token=build_token(), key=OTHER.key)


class Aws:
    """Returns tokens by the frozen clock, counts the calls, and fails on demand."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False
        self.lifetime = TWELVE_HOURS

    def request_token(self) -> EcrToken:
        self.calls += 1
        if self.fails:
            raise TokenError(build_failure())
        return build_token(received_at=time.time(), lifetime=self.lifetime, password=f"token {self.calls}")


class SlowAws(Aws):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_called = threading.Event()
        self.may_answer = threading.Event()

    def request_token(self) -> EcrToken:
        self.is_called.set()
        assert self.may_answer.wait(20)
        return super().request_token()


@pytest.fixture(autouse=True)
def clock() -> Iterator[FrozenDateTimeFactory]:
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)) as clock:
        assert isinstance(clock, FrozenDateTimeFactory)
        yield clock


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a renewal is waited for, except where a test is about that."""
    monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def aws() -> Aws:
    return Aws()


@pytest.fixture
def slow_aws() -> Iterator[SlowAws]:
    slow_aws = SlowAws()
    yield slow_aws
    slow_aws.may_answer.set()


@pytest.fixture
def store(tmp_path: Path) -> HostStore:
    return HostStore(str(tmp_path))


@pytest.fixture
def new_cache(store: HostStore) -> Callable[[], TokenCache]:
    """Make what a process of the host has."""
    return lambda: TokenCache(store, HOUR, Memory())


@pytest.fixture
def new_process(aws: Aws, new_cache: Callable[[], TokenCache]) -> Callable[[], Process]:
    """Make what a process of the host sees: a lookup that returns the token's password."""

    def build() -> Process:
        cache = new_cache()
        return lambda: cache.get(IDENTITY, aws.request_token).token.password

    return build


def write(store: HostStore, entry: Entry) -> None:
    store.write(f"{entry.key}.json", entry.to_json(), entry.useful_until)


class TestLifetime:
    def test_one_request_serves_every_process_for_a_lifetime(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """As long as it is fresh, a token is requested once."""
        served = {new_process()()}
        clock.tick(10.8 * HOUR)

        assert served | {new_process()()} == {"token 1"}
        assert aws.calls == 1

    def test_a_process_does_not_read_the_host_while_its_token_is_fresh(
        self, new_process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hit in memory touches no file, whether the process requested the token or found it."""
        requesting, finding = new_process(), new_process()
        requesting()
        finding()
        monkeypatch.setattr(HostStore, "read", lambda *_: pytest.fail("the host was read"))

        assert (requesting(), finding()) == ("token 1", "token 1")

    @pytest.mark.parametrize(("age", "fails"), [(0, False), (11.5 * HOUR, True)])
    def test_no_lock_is_taken_for_what_the_host_knows(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        new_process: Callable[[], Process],
        monkeypatch: pytest.MonkeyPatch,
        age: float,
        fails: bool,
    ) -> None:
        """A token that is fresh, or that is served during a back-off, costs a look at a file."""
        new_process()()
        clock.tick(age)
        aws.fails = fails
        new_process()()
        monkeypatch.setattr(HostStore, "take_lock", lambda *_: pytest.fail("a lock was taken"))

        assert new_process()() == "token 1"

    def test_a_token_that_is_due_is_renewed_by_one(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """The first lookup within refresh_before renews, and all others are served what it received."""
        first, second = new_process(), new_process()
        first()
        second()
        clock.tick(11 * HOUR)

        assert (first(), second(), new_process()()) == ("token 2", "token 2", "token 2")
        assert aws.calls == 2

    def test_a_token_that_is_too_old_is_replaced(
        self, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """Within the margin before it expires, and after."""
        lookup = new_process()
        lookup()
        clock.tick(11.75 * HOUR)

        assert lookup() == "token 2"

    def test_identities_do_not_share(self, aws: Aws, new_cache: Callable[[], TokenCache]) -> None:
        """Another identity, another token."""
        cache = new_cache()

        assert cache.get(IDENTITY, aws.request_token).token != cache.get(OTHER, aws.request_token).token

    def test_without_the_host_each_process_requests_once(self, aws: Aws) -> None:
        """As ``cache = "process"`` says."""
        caches = [TokenCache(None, HOUR, Memory()) for _ in range(2)]
        for cache in caches * 2:
            cache.get(IDENTITY, aws.request_token)

        assert aws.calls == 2

    def test_what_one_process_keeps_is_bounded(self) -> None:
        """Identities that change without end do not fill the memory."""
        memory = Memory()
        for number in range(10_000):
            memory.put(Entry(str(number), failure=build_failure(), failures=1, recorded_at=NOW))

        assert memory.get("0") is None
        assert memory.get("9999") is not None

    def test_what_is_of_no_use_leaves_the_memory(self, clock: FrozenDateTimeFactory) -> None:
        """From the moment at which the token is too old to serve."""
        memory = Memory()
        memory.put(build_entry(token=build_token()))
        clock.tick(11.75 * HOUR - 1)
        assert memory.get("a-key") is not None
        clock.tick(1)

        assert memory.get("a-key") is None


class TestFailures:
    def test_while_aws_fails_the_current_token_is_served_with_a_warning(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        new_process: Callable[[], Process],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The warning says for how long it is valid, and why it was not renewed; the token is not in it."""
        lookup = new_process()
        lookup()
        clock.tick(11.5 * HOUR)
        aws.fails = True

        assert lookup() == "token 1"
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("ecr_secrets_backend.cache", logging.WARNING)
        assert "valid for 1800 s more" in record.message
        assert "AccessDeniedException" in record.message
        assert "token 1" not in caplog.text

    def test_while_aws_fails_the_host_calls_it_once_in_a_back_off(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """Which doubles up to 120 s: ten minutes of an outage cost nine calls, however many processes there are."""
        lookup = new_process()
        lookup()
        clock.tick(11 * HOUR)
        aws.fails = True
        for _ in range(600):
            lookup()
            new_process()()
            clock.tick(1)

        assert 5 + 3 <= aws.calls - 1 <= 5 + 5

    def test_a_process_warns_again_after_a_minute(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        new_process: Callable[[], Process],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An outage is neither silent nor a flood."""
        lookup = new_process()
        lookup()
        clock.tick(11 * HOUR)
        aws.fails = True
        for _ in range(3 * 60):
            clock.tick(1)
            lookup()

        assert len(caplog.records) == 180 / WARNING_INTERVAL_SECONDS

    def test_each_identity_has_its_own_warning(
        self, aws: Aws, clock: FrozenDateTimeFactory, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One that fails does not silence another."""
        cache = TokenCache(None, HOUR, Memory())
        for later in (0, 11 * HOUR):
            clock.tick(later)
            aws.fails = bool(later)
            for identity in (IDENTITY, OTHER):
                cache.get(identity, aws.request_token)

        assert len(caplog.records) == 2

    def test_a_token_that_is_too_old_is_not_served_though_aws_fails(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """Better an error that names the cause than a token that the registry rejects."""
        lookup = new_process()
        lookup()
        clock.tick(11.75 * HOUR)
        aws.fails = True

        with pytest.raises(TokenError, match="AccessDeniedException"):
            lookup()

    def test_a_failure_without_a_token_is_repeated_without_a_call(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """The next callers of the host get the same cause, each its own exception, for nothing."""
        aws.fails = True
        raised = []
        for _ in range(5):
            with pytest.raises(TokenError) as caught:
                new_process()()
            raised.append(caught.value)
            clock.tick(0.7)

        assert {error.failure for error in raised} == {build_failure()}
        assert len({*map(id, raised)}) == 5
        assert aws.calls == 1

    @pytest.mark.parametrize("later", [BACK_OFF_SECONDS, HOUR])
    def test_recovery_is_noticed_after_the_back_off(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process], later: float
    ) -> None:
        """No restart, no clearing, however much later."""
        lookup = new_process()
        aws.fails = True
        with pytest.raises(TokenError):
            lookup()
        aws.fails = False
        clock.tick(later)

        assert lookup() == "token 2"

    def test_a_success_clears_the_count_of_failures(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """The next failure begins with the shortest back-off again."""
        lookup = new_process()
        aws.fails = True
        for _ in range(5):
            with pytest.raises(TokenError):
                lookup()
            clock.tick(LONGEST_BACK_OFF_SECONDS)
        aws.fails = False
        lookup()
        clock.tick(11 * HOUR)
        aws.fails = True
        calls = aws.calls
        lookup()
        clock.tick(BACK_OFF_SECONDS)
        lookup()

        assert aws.calls == calls + 2

    @pytest.mark.parametrize("host", [True, False])
    def test_failures_are_counted_across_pauses_longer_than_the_back_off(
        self, aws: Aws, clock: FrozenDateTimeFactory, store: HostStore, host: bool
    ) -> None:
        """With a lookup a minute, a host that fails comes down to one call in two minutes."""
        cache = TokenCache(store if host else None, HOUR, Memory())
        aws.fails = True
        for _ in range(60):
            with pytest.raises(TokenError):
                cache.get(IDENTITY, aws.request_token)
            clock.tick(60)

        assert 30 <= aws.calls <= 36

    def test_what_another_process_received_ends_the_back_off(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """A process that has met a failure reads the host before it repeats it."""
        lookup = new_process()
        aws.fails = True
        with pytest.raises(TokenError):
            lookup()
        aws.fails = False
        clock.tick(BACK_OFF_SECONDS)
        new_process()()
        clock.tick(timedelta(seconds=-1))

        assert lookup() == "token 2"

    def test_a_process_backs_off_though_the_host_forgets(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process], tmp_path: Path
    ) -> None:
        """What the process knows is newer than a file that could not be replaced."""
        lookup = new_process()
        lookup()
        (file,) = tmp_path.rglob("*.json")
        old = file.read_bytes()
        clock.tick(11 * HOUR)
        aws.fails = True
        for _ in range(3):
            lookup()
            file.write_bytes(old)

        assert aws.calls == 2

    def test_a_filter_of_logging_that_raises_costs_no_token(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """Nor do the lines about a new token."""

        def fail(_: logging.LogRecord) -> bool:
            raise RuntimeError("a broken filter")

        def on_token(*_: object) -> None:
            raise RuntimeError("a broken handler")

        logger = logging.getLogger("ecr_secrets_backend.cache")
        logger.addFilter(fail)
        try:
            assert (
                TokenCache(None, HOUR, Memory()).get(IDENTITY, aws.request_token, on_token).token.password == "token 1"
            )
            lookup = new_process()
            lookup()
            clock.tick(11.5 * HOUR)
            aws.fails = True
            assert lookup() == "token 2"
        finally:
            logger.removeFilter(fail)


class TestClocks:
    def test_a_clock_that_was_set_back_costs_nothing(
        self, clock: FrozenDateTimeFactory, new_process: Callable[[], Process]
    ) -> None:
        """A token is as old as the host's uptime says."""
        known = new_process()
        known()
        clock.tick(timedelta(hours=-2))

        assert (known(), new_process()()) == ("token 1", "token 1")

    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("failure", [None, build_failure()])
    def test_a_clock_that_was_set_back_does_not_prolong_a_token(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        store: HostStore,
        new_process: Callable[[], Process],
        failure: TokenFailure | None,
        fails: bool,
    ) -> None:
        """Ten hours of its twelve have passed, and two more, while the clock was set back by ten."""
        write(store, build_entry(token=build_token(), failure=failure, key=IDENTITY.key, age=12 * HOUR))
        clock.tick(2 * HOUR)
        aws.fails = fails

        for _ in range(2):
            with pytest.raises(TokenError) if fails else nullcontext():
                assert new_process()() == "token 1"
        assert aws.calls == 1

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_token_does_not_outlive_failures_by_a_clock_that_was_set_back(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        new_process: Callable[[], Process],
        fails: bool,
    ) -> None:
        """What is recorded after the clock was set goes by the clock of before."""
        up = uptime()
        monkeypatch.setattr("ecr_secrets_backend.entry.uptime", lambda: up)
        lookup = new_process()
        lookup()
        clock.tick(timedelta(hours=-10))
        up += 11.5 * HOUR
        aws.fails = True
        assert (lookup(), new_process()()) == ("token 1", "token 1")
        assert all("valid for 1800 s more" in line for line in caplog.messages)
        up += 0.5 * HOUR
        aws.fails = fails

        with pytest.raises(TokenError) if fails else nullcontext():
            assert (new_process()(), lookup()) == ("token 3", "token 3")

    def test_a_clock_that_is_set_back_while_aws_answers_does_not_prolong_a_token(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        monkeypatch: pytest.MonkeyPatch,
        new_cache: Callable[[], TokenCache],
        new_process: Callable[[], Process],
    ) -> None:
        """What is recorded goes by the clock of the token's times."""
        up = uptime()
        monkeypatch.setattr("ecr_secrets_backend.entry.uptime", lambda: up)

        def request_token() -> EcrToken:
            token = aws.request_token()
            clock.tick(timedelta(hours=-10))
            return token

        new_cache().get(IDENTITY, request_token)
        up += 12 * HOUR

        assert new_process()() == "token 2"

    def test_a_back_off_is_no_longer_when_the_clock_was_set_back(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        monkeypatch: pytest.MonkeyPatch,
        new_process: Callable[[], Process],
    ) -> None:
        """It runs by the host's uptime."""
        up = uptime()
        monkeypatch.setattr("ecr_secrets_backend.entry.uptime", lambda: up)
        aws.fails = True
        with pytest.raises(TokenError):
            new_process()()
        aws.fails = False
        clock.tick(timedelta(hours=-1))
        up += BACK_OFF_SECONDS

        assert new_process()() == "token 2"

    @pytest.mark.parametrize("outcome", [{"token": build_token()}, {"failure": build_failure()}])
    def test_what_was_recorded_in_the_future_before_the_host_started_is_forgotten(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        store: HostStore,
        new_process: Callable[[], Process],
        outcome: dict[str, Any],
    ) -> None:
        """How long ago that was cannot be known: it neither serves nor blocks, and is replaced once."""
        write(store, build_entry(**outcome, key=IDENTITY.key, age=-HOUR))
        clock.tick(timedelta(hours=-1))

        assert [new_process()() for _ in range(3)] == ["token 1"] * 3
        assert aws.calls == 1

    def test_what_was_recorded_in_the_future_and_cannot_be_replaced_costs_one_call_for_each_process(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        store: HostStore,
        new_process: Callable[[], Process],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As on a file system that has become read-only."""
        write(store, build_entry(token=build_token(), key=IDENTITY.key, age=-HOUR))
        clock.tick(timedelta(hours=-1))

        def fail(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(HostStore, "write", fail)
        lookup = new_process()

        assert [lookup() for _ in range(3)] == ["token 1"] * 3
        assert aws.calls == 1


class TestOneRefresh:
    @pytest.mark.parametrize("age", [0, 11 * HOUR])
    def test_identities_do_not_wait_for_each_other(
        self,
        aws: Aws,
        slow_aws: SlowAws,
        clock: FrozenDateTimeFactory,
        new_cache: Callable[[], TokenCache],
        age: float,
    ) -> None:
        """While the request of one hangs, another gets its token, the first or a new one."""
        cache = new_cache()
        if age:
            for identity in (IDENTITY, OTHER):
                cache.get(identity, aws.request_token)
        clock.tick(age)
        with ThreadPoolExecutor() as threads:
            hanging = threads.submit(cache.get, IDENTITY, slow_aws.request_token)
            assert slow_aws.is_called.wait(20)
            received_at = cache.get(OTHER, aws.request_token).token.received_at
            slow_aws.may_answer.set()
            hanging.result()

        assert received_at == time.time()

    def test_threads_that_come_together_request_once(self, aws: Aws, new_cache: Callable[[], TokenCache]) -> None:
        """All are served the one token; one is reported to have requested it."""
        cache, everybody = new_cache(), threading.Barrier(20)

        def look_up(_: int) -> tuple[str, str]:
            everybody.wait(20)
            served = cache.get(IDENTITY, aws.request_token)
            return served.token.password, served.source

        with ThreadPoolExecutor(20) as threads:
            passwords, sources = zip(*threads.map(look_up, range(20)), strict=True)

        assert {*passwords} == {"token 1"}
        assert aws.calls == sources.count("mint") == 1
        assert {*sources} <= {"mint", "host_hit", "process_hit"}

    def test_threads_that_wait_for_a_failure_raise_their_own_exceptions(
        self, slow_aws: SlowAws, new_cache: Callable[[], TokenCache]
    ) -> None:
        """A traceback that grows in another thread would show that thread's calls."""
        slow_aws.fails = True
        cache = new_cache()

        def look_up(_: int) -> TokenError:
            with pytest.raises(TokenError) as caught:
                cache.get(IDENTITY, slow_aws.request_token)
            return caught.value

        with ThreadPoolExecutor(5) as threads:
            errors = threads.map(look_up, range(5))
            assert slow_aws.is_called.wait(20)
            slow_aws.may_answer.set()
            raised = list(errors)

        assert len({*map(id, raised)}) == 5
        assert slow_aws.calls == 1
        assert sum(error.request_seconds is not None for error in raised) == 1

    def test_a_renewal_that_is_running_is_not_waited_for(
        self,
        aws: Aws,
        slow_aws: SlowAws,
        clock: FrozenDateTimeFactory,
        new_cache: Callable[[], TokenCache],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Another thread and another process are served the current token at once, without a warning."""
        cache, other = new_cache(), new_cache()
        cache.get(IDENTITY, aws.request_token)
        clock.tick(11 * HOUR)
        with ThreadPoolExecutor() as threads:
            renewal = threads.submit(cache.get, IDENTITY, slow_aws.request_token)
            assert slow_aws.is_called.wait(20)
            served = [process.get(IDENTITY, aws.request_token) for process in (cache, other)]
            assert not renewal.done()
            slow_aws.may_answer.set()
            assert renewal.result().source == "mint"

        assert [(each.token.password, each.source) for each in served] == [("token 1", "stale")] * 2
        assert caplog.records == []

    def test_a_renewal_that_takes_longer_than_its_caller_waits_is_not_a_failure(
        self,
        aws: Aws,
        slow_aws: SlowAws,
        clock: FrozenDateTimeFactory,
        new_cache: Callable[[], TokenCache],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The current token is served meanwhile; the new one is recorded when it arrives; nothing is warned of."""
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)
        cache = new_cache()
        cache.get(IDENTITY, aws.request_token)
        clock.tick(11 * HOUR)

        assert cache.get(IDENTITY, slow_aws.request_token).token.password == "token 1"
        slow_aws.calls = aws.calls
        slow_aws.may_answer.set()
        wait_until(lambda: cache.get(IDENTITY, aws.request_token).token.password == "token 2")
        assert new_cache().get(IDENTITY, aws.request_token).token.password == "token 2"
        assert caplog.records == []
        assert aws.calls == 1

    def test_a_token_that_gets_too_old_during_its_renewal_is_not_served_and_the_new_one_is(
        self, aws: Aws, clock: FrozenDateTimeFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From then on there is nothing to serve but what comes, so it is waited for."""
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)
        cache = TokenCache(None, HOUR, Memory())
        aws.lifetime = 10
        cache.get(IDENTITY, aws.request_token)
        clock.tick(8.5)

        def request_slowly() -> EcrToken:
            clock.tick(1)
            time.sleep(0.2)
            return aws.request_token()

        assert cache.get(IDENTITY, request_slowly).token.password == "token 2"

    @pytest.mark.parametrize("age", [0, 11 * HOUR])
    def test_what_was_recorded_before_the_lock_was_taken_is_used(
        self,
        aws: Aws,
        clock: FrozenDateTimeFactory,
        new_process: Callable[[], Process],
        monkeypatch: pytest.MonkeyPatch,
        age: float,
    ) -> None:
        """Between a look at the host and the lock there is time for a whole request."""
        if age:
            new_process()()
            clock.tick(age)
        calls = aws.calls
        take_lock = HostStore.take_lock

        def take_lock_late(*arguments: Any) -> HostLock | None:
            monkeypatch.setattr(HostStore, "take_lock", take_lock)
            new_process()()
            return take_lock(*arguments)

        monkeypatch.setattr(HostStore, "take_lock", take_lock_late)

        assert new_process()() == f"token {calls + 1}"
        assert aws.calls == calls + 1

    @pytest.mark.parametrize("age", [None, 12 * HOUR])
    def test_a_process_that_waits_for_the_lock_takes_the_token_that_comes(
        self,
        aws: Aws,
        store: HostStore,
        new_process: Callable[[], Process],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        age: float | None,
    ) -> None:
        """It does not need the lock for that: all that wait leave together."""
        if age is not None:
            old = build_token(received_at=NOW - age, password="expired")
            write(store, build_entry(token=old, recorded_at=old.received_at, key=IDENTITY.key))
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            write(store, build_entry(token=build_token(), key=IDENTITY.key))

        monkeypatch.setattr("time.sleep", sleep)
        lock = store.take_lock(IDENTITY.key)
        assert lock is not None
        with lock:
            assert new_process()() == "a-token"

        assert len(waited) == 1
        assert not caplog.records
        assert aws.calls == 0

    def test_a_process_that_waits_reads_soon_at_first_and_then_seldom(
        self, store: HostStore, new_process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At once, for a token that comes soon; ten to twenty times a second, and not in step, for a crowd's sake."""
        waited: list[float] = []
        lock = store.take_lock(IDENTITY.key)
        assert lock is not None

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 40:
                lock.release()

        monkeypatch.setattr("time.sleep", sleep)
        new_process()()

        assert waited[0] < 0.005
        assert sum(waited[:8]) < 0.1
        assert all(0.05 <= pause <= 0.1 for pause in waited[20:])
        assert len(set(waited)) == len(waited)

    def test_the_lock_of_a_process_that_does_not_get_on_is_replaced(
        self,
        clock: FrozenDateTimeFactory,
        store: HostStore,
        new_process: Callable[[], Process],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """After longer than a request may take; the lookup that waits is served within its time."""
        began = time.monotonic()
        monkeypatch.setattr("time.sleep", clock.tick)
        lock = store.take_lock(IDENTITY.key)
        assert lock is not None
        with lock:
            assert new_process()() == "token 1"

        assert LOCK_TIMEOUT_SECONDS <= time.monotonic() - began < cache_module.LOOKUP_TIMEOUT_SECONDS

    @pytest.mark.parametrize("age", [0, 11 * HOUR])
    def test_each_lookup_reports_where_its_token_comes_from(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_cache: Callable[[], TokenCache], age: float
    ) -> None:
        """A request of its own, and how long that took; then its process; and the host, for another process."""
        if age:
            new_cache().get(IDENTITY, aws.request_token)
            clock.tick(age)
        one, other = new_cache(), new_cache()
        served = [cache.get(IDENTITY, aws.request_token) for cache in (one, one, other, other)]

        assert [each.source for each in served] == ["mint", "process_hit", "host_hit", "process_hit"]
        assert [each.request_seconds is not None for each in served] == [True, False, False, False]

    def test_a_lookup_whose_renewal_failed_reports_so(self, aws: Aws, clock: FrozenDateTimeFactory) -> None:
        """And how long its request took; the next ones, during the back-off, made none."""
        cache = TokenCache(None, HOUR, Memory())
        cache.get(IDENTITY, aws.request_token)
        clock.tick(11 * HOUR)
        aws.fails = True
        served = [cache.get(IDENTITY, aws.request_token) for _ in range(2)]

        assert [(each.source, each.request_seconds is not None) for each in served] == [
            ("stale", True),
            ("stale", False),
        ]
        assert aws.calls == 2


_earlier_threads: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _forget_earlier_threads() -> None:
    """What other tests have left running is not waited for."""
    _earlier_threads.clear()
    _earlier_threads.update(threading.enumerate())


def background_threads() -> int:
    """Count the threads of this test that refresh or request."""
    return sum(thread.name == "ecr-secrets-backend" for thread in {*threading.enumerate()} - _earlier_threads)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not happen within 20 s")


class TestHangs:
    @pytest.fixture(autouse=True)
    def _short_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "REQUEST_TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)

    def test_a_request_that_hangs_is_abandoned_and_leaves_nothing_behind(
        self, aws: Aws, slow_aws: SlowAws, clock: FrozenDateTimeFactory, new_cache: Callable[[], TokenCache]
    ) -> None:
        """All callers of the host get the cause; after the back-off the next request is made, while it hangs on."""
        cache = new_cache()
        for process in (cache, cache, new_cache()):
            with pytest.raises(TokenError) as caught:
                process.get(IDENTITY, slow_aws.request_token)
            failure = caught.value.failure
            assert (failure.code, failure.region, failure.identity) == ("TimedOut", "us-east-1", str(IDENTITY))
            assert failure.reason == "there was no answer within 0 s"
            assert "what hangs" in failure.fix
        clock.tick(BACK_OFF_SECONDS)

        assert cache.get(IDENTITY, aws.request_token).token.password == "token 1"

    def test_a_token_that_arrives_after_its_request_was_abandoned_is_recorded(
        self, aws: Aws, slow_aws: SlowAws, new_cache: Callable[[], TokenCache]
    ) -> None:
        """It ends the back-off, for all processes of the host."""
        with pytest.raises(TokenError):
            new_cache().get(IDENTITY, slow_aws.request_token)
        wait_until(lambda: background_threads() == 1)  # but for the request, the refresh has ended
        slow_aws.may_answer.set()
        other = new_cache()

        def is_served() -> bool:
            with suppress(TokenError):
                return other.get(IDENTITY, aws.request_token).token.password == "token 1"
            return False

        wait_until(is_served)
        assert aws.calls == 0

    def test_a_failure_that_arrives_after_a_token_does_not_replace_it(
        self, aws: Aws, store: HostStore, new_cache: Callable[[], TokenCache]
    ) -> None:
        """Such as that of a process that was stopped while others went on."""
        stopped = new_cache()

        def request_late() -> EcrToken:
            write(store, build_entry(token=build_token(), recorded_at=NOW + 1, key=IDENTITY.key))
            raise TokenError(build_failure())

        assert stopped.get(IDENTITY, request_late).token.password == "a-token"
        assert new_cache().get(IDENTITY, aws.request_token).token.password == "a-token"

    def test_while_a_request_hangs_the_current_token_is_served_and_then_a_warning_says_so(
        self,
        aws: Aws,
        slow_aws: SlowAws,
        clock: FrozenDateTimeFactory,
        new_cache: Callable[[], TokenCache],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """That it was not renewed, and what to look for."""
        cache = new_cache()
        cache.get(IDENTITY, aws.request_token)
        clock.tick(11.5 * HOUR)
        passwords = {cache.get(IDENTITY, slow_aws.request_token).token.password}
        assert caplog.records == []

        def is_warned() -> bool:
            passwords.add(cache.get(IDENTITY, slow_aws.request_token).token.password)
            return bool(caplog.records)

        wait_until(is_warned)
        assert passwords == {"token 1"}
        assert "Cannot renew an ECR token, which is valid for 1800 s more: TimedOut: " in caplog.messages[0]

    def test_a_lookup_does_not_wait_for_ever_for_another_process(
        self, aws: Aws, store: HostStore, new_cache: Callable[[], TokenCache], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its exception says that it timed out; no failure is recorded, as its process has called nobody."""
        monkeypatch.setattr(cache_module, "LOOKUP_TIMEOUT_SECONDS", 0.05)
        nowhere = replace(IDENTITY, region=None)
        lock = store.take_lock(nowhere.key)
        assert lock is not None
        with lock, pytest.raises(TokenError, match=r"TimedOut: .*region: none\)"):
            new_cache().get(nowhere, aws.request_token)
        assert new_cache().get(nowhere, aws.request_token).token.password == "token 1"

    def test_a_process_ends_though_a_request_hangs(self) -> None:
        """Nobody waits for an answer that no lookup waits for."""
        program = """if True:
            import time
            from ecr_secrets_backend import cache
            from ecr_secrets_backend.errors import TokenError
            from ecr_secrets_backend.identity import AwsIdentity
            cache.REQUEST_TIMEOUT_SECONDS = 0.05
            try:
                cache.TokenCache(None, 0).get(AwsIdentity("ecr", "us-east-1"), lambda: time.sleep(60))
            except TokenError as error:
                print(error.failure.code)
        """
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

        assert run.stdout == "TimedOut\n"


def test_the_bounds_of_a_lookup_fit_together() -> None:
    """A caller of another process still waits when a hang is recorded or a lock replaced, and all end within 30 s."""
    assert credentials.SECONDS < REQUEST_TIMEOUT_SECONDS < LOCK_TIMEOUT_SECONDS < LOOKUP_TIMEOUT_SECONDS
    assert RENEWAL_TIMEOUT_SECONDS + LOOKUP_TIMEOUT_SECONDS <= 30


class TestForksAndThreads:
    def test_a_child_begins_without_a_refresh_and_with_a_free_lock(self) -> None:
        """The thread that ran it when the child was forked is not in the child, and would never end it."""
        memory = Memory()
        memory.reset_in_children()
        running: Future[Any] = Future()
        memory.join("key", running)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            mine: Future[Any] = Future()
            is_first = memory.join("key", mine) is mine
            memory.put(build_entry(token=build_token()))
            os._exit(0 if is_first else 1)

        assert os.waitpid(child, 0) == (child, 0)
        assert memory.join("key", Future()) is running

    def test_a_refresh_that_was_interrupted_before_it_started_is_not_joined(self) -> None:
        """However it was interrupted: its callers, and the next ones, start again."""
        memory = Memory()
        interrupted: Future[Any] = Future()
        memory.join("key", interrupted)
        interrupted.cancel()
        next_one: Future[Any] = Future()

        assert memory.join("key", next_one) is next_one
        assert memory.join("key", Future()) is next_one

    def test_a_process_that_may_have_no_more_threads_requests_without(
        self, aws: Aws, new_process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when it is about to exit."""

        def fail(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("threading.Thread.start", fail)

        assert new_process()() == "token 1"
        assert aws.calls == 1


class TaskTimeoutError(BaseException):
    """What Airflow raises from a signal handler, between any two lines of the main thread."""


def interrupt(work: Callable[[], object], line: int) -> bool:
    """Raise at a line of the package, counted as they run; return whether the work has so many lines.

    The end of a with block is not a line: Python looks for signals after the last call in the block, and then not
    before it has left the block.
    """
    package = str(Path(cache_module.__file__).parent)
    left, blocks = [line], set()

    def trace(frame: Any, event: str, _: object) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        callers = {frame.f_code.co_name, frame.f_back.f_code.co_name}
        if not place[0].startswith(package) or "__del__" in callers:  # whose exceptions Python ignores
            return None
        if event == "line" and (id(frame), place) not in blocks:
            if linecache.getline(*place).lstrip().startswith("with "):
                blocks.add((id(frame), place))
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise TaskTimeoutError
        return trace

    def run() -> bool:
        sys.settrace(trace)
        try:
            work()
        except TaskTimeoutError:
            return True
        finally:
            sys.settrace(None)
        return False

    # In a thread of its own: an exception that comes within an except clause may leave the other one behind there.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


@pytest.mark.parametrize("age", [None, 0, 11 * HOUR, 12 * HOUR])
def test_an_interruption_at_any_line_leaks_nothing(
    aws: Aws, clock: FrozenDateTimeFactory, store: HostStore, new_cache: Callable[[], TokenCache], age: float | None
) -> None:
    """No lock, no descriptor, no refresh: the next lookups of the process and of the host are served at once."""

    def prepare() -> TokenCache:
        survey = CacheFolder.inspect(store)
        for file in survey.files:
            delete(str(survey.path), file.name)
        clock.move_to(datetime.fromtimestamp(NOW, timezone.utc))
        if age is not None:
            write(store, Entry.of_token(IDENTITY.key, "", build_token()))
            clock.tick(age)
        return new_cache()

    prepare().get(IDENTITY, aws.request_token)
    for line in range(1000):
        cache = prepare()
        is_interrupted = interrupt(partial(cache.get, IDENTITY, aws.request_token), line)
        for process in (cache, new_cache()):
            began = time.perf_counter_ns()
            assert process.get(IDENTITY, aws.request_token).token.password
            assert time.perf_counter_ns() - began < 5e9
        wait_until(lambda: cache_descriptors() == [])
        if not is_interrupted:
            break

    assert 20 < line < 999


class TestStore:
    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda file: file.write_bytes(b"garbage"), "a file of the cache is damaged, or of another version"),
            (
                lambda file: file.write_bytes(OF_ANOTHER.to_json()),
                "a file of the cache is damaged, or of another version",
            ),
            (lambda file: file.chmod(0o640), "a file of the cache is open to other users"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_reported_once_and_replaced(
        self,
        new_process: Callable[[], Process],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[Path], object],
        problem: str,
    ) -> None:
        """The lookup succeeds by a request, and the next process finds a sound file."""
        new_process()()
        wait_until(lambda: background_threads() == 0)  # the refresh has cleaned up
        (file,) = tmp_path.rglob("*.json")
        damage(file)
        os.utime(file, (NOW + HOUR, NOW + HOUR))  # not expired, by the frozen clock

        assert new_process()() == "token 2"
        assert new_process()() == "token 2"
        (message,) = caplog.messages
        assert f": {problem}. Run `ecr" in message

    def test_each_fault_of_the_cache_is_reported(
        self,
        new_process: Callable[[], Process],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One does not hide another."""
        new_process()()
        wait_until(lambda: background_threads() == 0)  # the refresh has cleaned up
        (file,) = tmp_path.rglob("*.json")
        file.write_bytes(b"garbage")
        os.utime(file, (NOW + HOUR, NOW + HOUR))

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def fail_otherwise(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(HostStore, "write", fail)
        monkeypatch.setattr(HostStore, "take_lock", fail_otherwise)
        new_process()()
        assert [re.findall("more often: (.*?)\\.", message)[0] for message in caplog.messages] == [
            "a file of the cache is damaged, or of another version",
            "No locks available",
            "No space left on device",
        ]

    def test_an_entry_says_in_words_whose_it_is(
        self, aws: Aws, new_cache: Callable[[], TokenCache], tmp_path: Path
    ) -> None:
        """For people who look into the cache: an entry's name says nothing."""
        cache = new_cache()
        cache.get(OTHER, aws.request_token)
        aws.fails = True
        with suppress(TokenError):
            cache.get(IDENTITY, aws.request_token)

        entries = [Entry.from_json(file.read_bytes()) for file in tmp_path.glob("*/*.json")]
        assert {entry.identity for entry in entries if entry} == {"profile other", build_failure().identity}

    def test_expired_entries_are_removed_at_a_refresh(
        self, aws: Aws, clock: FrozenDateTimeFactory, new_cache: Callable[[], TokenCache], tmp_path: Path
    ) -> None:
        """Identities that change without end do not fill the host's cache."""
        cache = new_cache()
        for number in range(30):
            cache.get(replace(IDENTITY, environment=str(number)), aws.request_token)
        clock.tick(TWELVE_HOURS)
        cache.get(IDENTITY, aws.request_token)

        wait_until(lambda: len(list(tmp_path.glob("*/*"))) == 2)

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
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

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
RENEWAL_DUE = 11 * HOUR
HALF_AN_HOUR_LEFT = 11.5 * HOUR
TOO_OLD = 11.75 * HOUR


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
    """Answers when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_called = threading.Event()
        self.may_answer = threading.Event()

    def request_token(self) -> EcrToken:
        self.is_called.set()
        assert self.may_answer.wait(20)
        return super().request_token()


class Host:
    """A host with any number of processes, which share a folder, a clock and AWS."""

    def __init__(self, folder: Path, clock: FrozenDateTimeFactory) -> None:
        self.store = HostStore(str(folder))
        self.aws = Aws()
        self.clock = clock
        self._folder = folder

    def new_cache(self) -> TokenCache:
        """Return the cache of a new process."""
        return TokenCache(self.store, HOUR, Memory())

    def new_process(self) -> Process:
        """Return a new process: its lookup, which returns the password of the token."""
        cache = self.new_cache()
        return lambda: self.look_up(cache)

    def look_up(self, cache: TokenCache, identity: AwsIdentity = IDENTITY) -> str:
        return cache.get(identity, self.aws.request_token).token.password

    def fail(self, lookup: Callable[[], object]) -> TokenError:
        """Look up while AWS fails and no token can be served, and return the exception."""
        self.aws.fails = True
        with pytest.raises(TokenError) as caught:
            lookup()
        self.aws.fails = False
        return caught.value

    def write(self, entry: Entry) -> None:
        self.store.write(f"{entry.key}.json", entry.to_json(), entry.expires_at)

    @property
    def file(self) -> Path:
        (file,) = self._folder.rglob("*.json")
        return file

    def damage(self, damage: Callable[[Path], object]) -> None:
        """Damage the only file, after the refresh that wrote it has ended."""
        wait_until(lambda: background_threads() == 0)
        damage(self.file)
        os.utime(self.file, (NOW + HOUR, NOW + HOUR))  # not expired by the frozen clock


@pytest.fixture(autouse=True)
def clock() -> Iterator[FrozenDateTimeFactory]:
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)) as clock:
        assert isinstance(clock, FrozenDateTimeFactory)
        yield clock


@pytest.fixture(autouse=True)
def _long_renewal_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for each renewal, also on a busy machine. Tests of the timeout set their own."""
    monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def host(tmp_path: Path, clock: FrozenDateTimeFactory) -> Host:
    return Host(tmp_path, clock)


@pytest.fixture
def slow_aws() -> Iterator[SlowAws]:
    slow_aws = SlowAws()
    yield slow_aws
    slow_aws.may_answer.set()


@pytest.fixture
def frozen_uptime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The uptime of the host, which the test moves."""
    frozen = SimpleNamespace(seconds=uptime())
    monkeypatch.setattr("ecr_secrets_backend.entry.uptime", lambda: frozen.seconds)
    return frozen


_earlier_threads: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _forget_earlier_threads() -> None:
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


def raise_error(code: int) -> Mock:
    return Mock(side_effect=OSError(code, os.strerror(code)))


def held(store: HostStore, identity: AwsIdentity = IDENTITY) -> HostLock:
    """Hold the host lock of an identity, as another process does."""
    lock = store.take_lock(identity.key)
    assert lock is not None
    return lock


class TestLifetime:
    def test_one_request_serves_all_processes_while_its_token_is_fresh(self, host: Host) -> None:
        served = {host.new_process()()}
        host.clock.tick(10.8 * HOUR)

        assert served | {host.new_process()()} == {"token 1"}
        assert host.aws.calls == 1

    def test_a_hit_in_memory_reads_no_file(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither in the process that requested the token nor in one that found it on the host."""
        processes = [host.new_process() for _ in range(2)]
        for process in processes:
            process()
        monkeypatch.setattr(HostStore, "read", lambda *_: pytest.fail("the host was read"))

        assert [process() for process in processes] == ["token 1", "token 1"]

    @pytest.mark.parametrize("age", [0, HALF_AN_HOUR_LEFT])
    def test_a_lookup_during_a_back_off_or_of_a_fresh_token_takes_no_lock(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, age: float
    ) -> None:
        host.new_process()()
        host.clock.tick(age)
        host.aws.fails = bool(age)
        host.new_process()()
        monkeypatch.setattr(HostStore, "take_lock", lambda *_: pytest.fail("a lock was taken"))

        assert host.new_process()() == "token 1"

    def test_the_first_lookup_after_a_token_is_due_renews_it_for_all(self, host: Host) -> None:
        first, second = host.new_process(), host.new_process()
        first()
        second()
        host.clock.tick(RENEWAL_DUE)

        assert (first(), second(), host.new_process()()) == ("token 2", "token 2", "token 2")
        assert host.aws.calls == 2

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_token_that_is_too_old_is_replaced_and_never_served(self, host: Host, fails: bool) -> None:
        """While AWS fails, the lookup reports the cause."""
        lookup = host.new_process()
        lookup()
        host.clock.tick(TOO_OLD)
        host.aws.fails = fails

        with pytest.raises(TokenError, match="AccessDeniedException") if fails else nullcontext():
            assert lookup() == "token 2"

    def test_identities_do_not_share_a_token(self, host: Host) -> None:
        cache = host.new_cache()

        assert host.look_up(cache, IDENTITY) != host.look_up(cache, OTHER)

    def test_without_the_host_each_process_requests_one_token(self, host: Host) -> None:
        """With ``cache = "process"``."""
        caches = [TokenCache(None, HOUR, Memory()) for _ in range(2)]
        for cache in caches * 2:
            host.look_up(cache)

        assert host.aws.calls == 2

    def test_identities_that_keep_changing_do_not_fill_the_memory(self) -> None:
        memory = Memory()
        for number in range(10_000):
            memory.put(Entry(str(number), failure=build_failure(), failures=1, recorded_at=NOW))

        assert memory.get("0") is None
        assert memory.get("9999") is not None

    def test_an_entry_leaves_the_memory_when_its_token_is_too_old(self, host: Host) -> None:
        memory = Memory()
        memory.put(build_entry(token=build_token()))
        host.clock.tick(TOO_OLD - 1)
        assert memory.get("a-key") is not None
        host.clock.tick(1)

        assert memory.get("a-key") is None


class TestFailures:
    def test_while_aws_fails_the_current_token_is_served_with_a_warning(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The warning names the cause, the identity and the region, and how long the token is valid."""
        lookup = host.new_process()
        lookup()
        host.clock.tick(HALF_AN_HOUR_LEFT)
        host.aws.fails = True

        assert lookup() == "token 1"
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("ecr_secrets_backend.cache", logging.WARNING)
        expected = f"Cannot renew an ECR token, which is valid for 1800 s more: {build_failure()}"
        assert record.message == expected
        for part in ("AccessDeniedException", "a role", "us-east-1"):
            assert part in expected

    def test_while_aws_fails_all_processes_together_call_it_once_in_a_back_off(self, host: Host) -> None:
        """The back-off doubles up to 120 s, so ten minutes of an outage cost about nine calls."""
        lookup = host.new_process()
        lookup()
        host.clock.tick(RENEWAL_DUE)
        host.aws.fails = True
        for _ in range(600):
            lookup()
            host.new_process()()
            host.clock.tick(1)

        assert 5 + 3 <= host.aws.calls - 1 <= 5 + 5

    def test_a_process_warns_once_a_minute_for_each_identity(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = host.new_cache()
        for second in range(3 * 60 + 1):
            for identity in (IDENTITY, OTHER):
                host.look_up(cache, identity)
            host.clock.tick(1 if second else RENEWAL_DUE)
            host.aws.fails = True

        assert len(caplog.records) == 2 * 180 / WARNING_INTERVAL_SECONDS

    def test_a_failure_without_a_token_is_repeated_without_a_call(self, host: Host) -> None:
        """The next callers of the host raise the same cause, each with an exception of its own."""
        errors = []
        for _ in range(5):
            errors.append(host.fail(host.new_process()))
            host.clock.tick(0.7)

        assert {error.failure for error in errors} == {build_failure()}
        assert len({*map(id, errors)}) == 5
        assert host.aws.calls == 1

    @pytest.mark.parametrize("later", [BACK_OFF_SECONDS, HOUR])
    def test_after_the_back_off_the_next_lookup_requests_a_token(self, host: Host, later: float) -> None:
        lookup = host.new_process()
        host.fail(lookup)
        host.clock.tick(later)

        assert lookup() == "token 2"

    def test_a_success_clears_the_count_of_failures(self, host: Host) -> None:
        """The next failure starts with the shortest back-off again."""
        lookup = host.new_process()
        for _ in range(5):
            host.fail(lookup)
            host.clock.tick(LONGEST_BACK_OFF_SECONDS)
        lookup()
        host.clock.tick(RENEWAL_DUE)
        host.aws.fails = True
        calls = host.aws.calls
        lookup()
        host.clock.tick(BACK_OFF_SECONDS)
        lookup()

        assert host.aws.calls == calls + 2

    @pytest.mark.parametrize("has_store", [True, False])
    def test_failures_are_counted_across_pauses_longer_than_the_back_off(self, host: Host, has_store: bool) -> None:
        """With one lookup a minute, a host on which all requests fail calls AWS every two minutes."""
        cache = TokenCache(host.store if has_store else None, HOUR, Memory())
        for _ in range(60):
            host.fail(partial(host.look_up, cache))
            host.clock.tick(60)

        assert 30 <= host.aws.calls <= 36

    def test_a_token_of_another_process_ends_the_back_off(self, host: Host) -> None:
        lookup = host.new_process()
        host.fail(lookup)
        host.clock.tick(BACK_OFF_SECONDS)
        host.new_process()()
        host.clock.tick(timedelta(seconds=-1))

        assert lookup() == "token 2"

    def test_a_process_backs_off_although_its_failure_is_not_on_the_host(self, host: Host) -> None:
        """The entry in memory is newer than a file that could not be replaced."""
        lookup = host.new_process()
        lookup()
        old = host.file.read_bytes()
        host.clock.tick(RENEWAL_DUE)
        host.aws.fails = True
        for _ in range(3):
            lookup()
            host.file.write_bytes(old)

        assert host.aws.calls == 2

    def test_a_logging_filter_or_callback_that_raises_fails_no_lookup(self, host: Host) -> None:
        logger = logging.getLogger("ecr_secrets_backend.cache")

        def fail(*_: object) -> bool:
            raise RuntimeError("a broken filter or callback")

        logger.addFilter(fail)
        try:
            cache = host.new_cache()
            assert cache.get(IDENTITY, host.aws.request_token, fail).token.password == "token 1"
            host.clock.tick(HALF_AN_HOUR_LEFT)
            host.aws.fails = True
            assert host.look_up(cache) == "token 1"
        finally:
            logger.removeFilter(fail)


class TestClocks:
    def test_a_clock_that_is_set_back_costs_no_call(self, host: Host) -> None:
        known = host.new_process()
        known()
        host.clock.tick(timedelta(hours=-2))

        assert (known(), host.new_process()()) == ("token 1", "token 1")

    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("failure", [None, build_failure()])
    def test_a_clock_that_was_set_back_before_does_not_prolong_a_token(
        self, host: Host, failure: TokenFailure | None, fails: bool
    ) -> None:
        """The host's uptime shows that the twelve hours of the token are over."""
        host.write(build_entry(token=build_token(), failure=failure, key=IDENTITY.key, age=12 * HOUR))
        host.clock.tick(2 * HOUR)
        host.aws.fails = fails

        for _ in range(2):
            with pytest.raises(TokenError) if fails else nullcontext():
                assert host.new_process()() == "token 1"
        assert host.aws.calls == 1

    @pytest.mark.parametrize("fails", [False, True])
    def test_failures_after_the_clock_was_set_back_do_not_prolong_a_token(
        self, host: Host, caplog: pytest.LogCaptureFixture, frozen_uptime: SimpleNamespace, fails: bool
    ) -> None:
        """Entries that are recorded later use the clock of the first one."""
        lookup = host.new_process()
        lookup()
        host.clock.tick(timedelta(hours=-10))
        frozen_uptime.seconds += HALF_AN_HOUR_LEFT
        host.aws.fails = True
        assert (lookup(), host.new_process()()) == ("token 1", "token 1")
        assert all("valid for 1800 s more" in line for line in caplog.messages)
        frozen_uptime.seconds += 0.5 * HOUR
        host.aws.fails = fails

        with pytest.raises(TokenError) if fails else nullcontext():
            assert (host.new_process()(), lookup()) == ("token 3", "token 3")

    def test_a_clock_that_is_set_back_during_a_request_does_not_prolong_its_token(
        self, host: Host, frozen_uptime: SimpleNamespace
    ) -> None:
        def request_token() -> EcrToken:
            token = host.aws.request_token()
            host.clock.tick(timedelta(hours=-10))
            return token

        host.new_cache().get(IDENTITY, request_token)
        frozen_uptime.seconds += 12 * HOUR

        assert host.new_process()() == "token 2"

    def test_a_clock_that_is_set_back_does_not_prolong_a_back_off(
        self, host: Host, frozen_uptime: SimpleNamespace
    ) -> None:
        host.fail(host.new_process())
        host.clock.tick(timedelta(hours=-1))
        frozen_uptime.seconds += BACK_OFF_SECONDS

        assert host.new_process()() == "token 2"

    @pytest.mark.parametrize(
        ("result", "is_read_only"),
        [({"token": build_token()}, False), ({"failure": build_failure()}, False), ({"token": build_token()}, True)],
    )
    def test_an_entry_from_the_future_is_ignored_after_a_restart_of_the_host(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], is_read_only: bool
    ) -> None:
        """Its age is unknown. It is replaced by one call, or by one for each process on a read-only file system."""
        host.write(build_entry(**result, key=IDENTITY.key, age=-HOUR))
        host.clock.tick(timedelta(hours=-1))
        if is_read_only:
            monkeypatch.setattr(HostStore, "write", raise_error(errno.EROFS))
        first = host.new_process()
        processes = [first] * 3 if is_read_only else [first, host.new_process(), host.new_process()]

        assert [process() for process in processes] == ["token 1"] * 3
        assert host.aws.calls == 1


class TestOneRefresh:
    @pytest.mark.parametrize("age", [0, RENEWAL_DUE])
    def test_identities_do_not_wait_for_each_other(self, host: Host, slow_aws: SlowAws, age: float) -> None:
        """While the request of one identity hangs, another one receives its first or next token."""
        cache = host.new_cache()
        if age:
            for identity in (IDENTITY, OTHER):
                host.look_up(cache, identity)
        host.clock.tick(age)
        with ThreadPoolExecutor() as threads:
            hanging = threads.submit(cache.get, IDENTITY, slow_aws.request_token)
            assert slow_aws.is_called.wait(20)
            received_at = cache.get(OTHER, host.aws.request_token).token.received_at
            slow_aws.may_answer.set()
            hanging.result()

        assert received_at == time.time()

    def test_threads_that_look_up_together_request_one_token(self, host: Host) -> None:
        """One of them reports the request."""
        cache, barrier = host.new_cache(), threading.Barrier(20)

        def look_up(_: int) -> tuple[str, str]:
            barrier.wait(20)
            served = cache.get(IDENTITY, host.aws.request_token)
            return served.token.password, served.source

        with ThreadPoolExecutor(20) as threads:
            passwords, sources = zip(*threads.map(look_up, range(20)), strict=True)

        assert {*passwords} == {"token 1"}
        assert host.aws.calls == sources.count("mint") == 1
        assert {*sources} <= {"mint", "host_hit", "process_hit"}

    def test_threads_that_wait_for_a_failure_raise_their_own_exceptions(self, host: Host, slow_aws: SlowAws) -> None:
        """Otherwise the traceback of one thread shows the calls of another one."""
        slow_aws.fails = True
        cache = host.new_cache()

        def look_up(_: int) -> TokenError:
            with pytest.raises(TokenError) as caught:
                cache.get(IDENTITY, slow_aws.request_token)
            return caught.value

        with ThreadPoolExecutor(5) as threads:
            pending = threads.map(look_up, range(5))
            assert slow_aws.is_called.wait(20)
            slow_aws.may_answer.set()
            errors = list(pending)

        assert len({*map(id, errors)}) == 5
        assert slow_aws.calls == 1
        assert sum(error.request_seconds is not None for error in errors) == 1

    def test_no_lookup_waits_for_a_renewal_of_another_thread_or_process(
        self, host: Host, slow_aws: SlowAws, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It returns the current token at once, without a warning."""
        cache, other = host.new_cache(), host.new_cache()
        host.look_up(cache)
        host.clock.tick(RENEWAL_DUE)
        with ThreadPoolExecutor() as threads:
            renewal = threads.submit(cache.get, IDENTITY, slow_aws.request_token)
            assert slow_aws.is_called.wait(20)
            served = [process.get(IDENTITY, host.aws.request_token) for process in (cache, other)]
            assert not renewal.done()
            slow_aws.may_answer.set()
            assert renewal.result().source == "mint"

        assert [(each.token.password, each.source) for each in served] == [("token 1", "stale")] * 2
        assert caplog.records == []

    def test_a_renewal_that_takes_longer_than_its_caller_waits_is_not_a_failure(
        self, host: Host, slow_aws: SlowAws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The caller returns the current token. The new one is recorded when it arrives, and no line warns."""
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)
        cache = host.new_cache()
        host.look_up(cache)
        host.clock.tick(RENEWAL_DUE)

        assert cache.get(IDENTITY, slow_aws.request_token).token.password == "token 1"
        slow_aws.calls = host.aws.calls
        slow_aws.may_answer.set()
        wait_until(lambda: host.look_up(cache) == "token 2")
        assert host.new_process()() == "token 2"
        assert caplog.records == []
        assert host.aws.calls == 1

    def test_a_token_that_becomes_too_old_during_its_renewal_is_not_served(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lookup then waits for the new one."""
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)
        cache = TokenCache(None, HOUR, Memory())
        host.aws.lifetime = 10
        host.look_up(cache)
        host.clock.tick(8.5)

        def request_slowly() -> EcrToken:
            host.clock.tick(1)
            time.sleep(0.2)
            return host.aws.request_token()

        assert cache.get(IDENTITY, request_slowly).token.password == "token 2"

    @pytest.mark.parametrize("age", [0, RENEWAL_DUE])
    def test_a_token_that_was_recorded_before_the_lock_was_taken_is_used(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, age: float
    ) -> None:
        """Another process may request it between the read of the host and the lock."""
        if age:
            host.new_process()()
            host.clock.tick(age)
        calls = host.aws.calls
        take_lock = HostStore.take_lock

        def take_lock_late(*arguments: Any) -> HostLock | None:
            monkeypatch.setattr(HostStore, "take_lock", take_lock)
            host.new_process()()
            return take_lock(*arguments)

        monkeypatch.setattr(HostStore, "take_lock", take_lock_late)

        assert host.new_process()() == f"token {calls + 1}"
        assert host.aws.calls == calls + 1

    @pytest.mark.parametrize("age", [None, 12 * HOUR])
    def test_a_process_that_waits_for_the_lock_uses_the_token_that_arrives(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age: float | None
    ) -> None:
        """It does not need the lock for that, so all waiting processes continue together."""
        if age is not None:
            old = build_token(received_at=NOW - age, password="expired")
            host.write(build_entry(token=old, recorded_at=old.received_at, key=IDENTITY.key))
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            host.write(build_entry(token=build_token(), key=IDENTITY.key))

        monkeypatch.setattr("time.sleep", sleep)
        with held(host.store):
            assert host.new_process()() == "a-token"

        assert len(waited) == 1
        assert not caplog.records
        assert host.aws.calls == 0

    def test_a_process_that_waits_polls_soon_at_first_and_then_less(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At most twenty times a second, and not in step with others, because hundreds may wait."""
        waited: list[float] = []
        lock = held(host.store)

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 40:
                lock.release()

        monkeypatch.setattr("time.sleep", sleep)
        host.new_process()()

        assert waited[0] < 0.005
        assert sum(waited[:8]) < 0.1
        assert all(0.05 <= pause <= 0.1 for pause in waited[20:])
        assert len(set(waited)) == len(waited)

    def test_the_lock_of_a_stuck_process_is_replaced(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """After longer than a request may take, and early enough for the waiting lookup."""
        began = time.monotonic()
        monkeypatch.setattr("time.sleep", host.clock.tick)
        with held(host.store):
            assert host.new_process()() == "token 1"

        assert LOCK_TIMEOUT_SECONDS <= time.monotonic() - began < LOOKUP_TIMEOUT_SECONDS

    @pytest.mark.parametrize("age", [0, RENEWAL_DUE])
    def test_each_lookup_reports_the_source_of_its_token(self, host: Host, age: float) -> None:
        """Only the lookup with a request of its own reports the seconds of a request."""
        if age:
            host.new_process()()
            host.clock.tick(age)
        one, other = host.new_cache(), host.new_cache()
        served = [cache.get(IDENTITY, host.aws.request_token) for cache in (one, one, other, other)]

        assert [each.source for each in served] == ["mint", "process_hit", "host_hit", "process_hit"]
        assert [each.request_seconds is not None for each in served] == [True, False, False, False]

    def test_a_lookup_after_a_failed_renewal_reports_a_stale_token(self, host: Host) -> None:
        """The first one reports the seconds of its request. The next one, during the back-off, made none."""
        cache = host.new_cache()
        host.look_up(cache)
        host.clock.tick(RENEWAL_DUE)
        host.aws.fails = True
        served = [cache.get(IDENTITY, host.aws.request_token) for _ in range(2)]

        found = [(each.source, each.request_seconds is not None) for each in served]
        assert found == [("stale", True), ("stale", False)]
        assert host.aws.calls == 2


class TestHangs:
    @pytest.fixture(autouse=True)
    def _short_timeouts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "REQUEST_TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)

    def test_a_request_that_hangs_is_abandoned_and_blocks_no_later_one(self, host: Host, slow_aws: SlowAws) -> None:
        """All callers of the host raise the cause, and the first lookup after the back-off is served."""
        cache = host.new_cache()
        for process in (cache, cache, host.new_cache()):
            with pytest.raises(TokenError) as caught:
                process.get(IDENTITY, slow_aws.request_token)
            failure = caught.value.failure
            assert (failure.code, failure.region, failure.identity) == ("TimedOut", "us-east-1", str(IDENTITY))
            assert failure.reason == "there was no answer within 0 s"
            assert "what hangs" in failure.fix
        host.clock.tick(BACK_OFF_SECONDS)

        assert host.look_up(cache) == "token 1"

    def test_a_token_that_arrives_after_its_request_was_abandoned_is_recorded(
        self, host: Host, slow_aws: SlowAws
    ) -> None:
        """It ends the back-off of all processes of the host."""
        with pytest.raises(TokenError):
            host.new_cache().get(IDENTITY, slow_aws.request_token)
        wait_until(lambda: background_threads() == 1)  # the refresh has ended, the request has not
        slow_aws.may_answer.set()
        other = host.new_process()

        def is_served() -> bool:
            with suppress(TokenError):
                return other() == "token 1"
            return False

        wait_until(is_served)
        assert host.aws.calls == 0

    def test_a_failure_that_arrives_after_the_token_of_another_process_does_not_replace_it(self, host: Host) -> None:
        """For example when the process was stopped during its request."""

        def request_late() -> EcrToken:
            host.write(build_entry(token=build_token(), recorded_at=NOW + 1, key=IDENTITY.key))
            raise TokenError(build_failure())

        assert host.new_cache().get(IDENTITY, request_late).token.password == "a-token"
        assert host.new_process()() == "a-token"

    def test_while_a_request_hangs_the_current_token_is_served_and_after_its_timeout_a_line_warns(
        self, host: Host, slow_aws: SlowAws, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = host.new_cache()
        host.look_up(cache)
        host.clock.tick(HALF_AN_HOUR_LEFT)
        passwords = {cache.get(IDENTITY, slow_aws.request_token).token.password}
        assert caplog.records == []

        def has_warned() -> bool:
            passwords.add(cache.get(IDENTITY, slow_aws.request_token).token.password)
            return bool(caplog.records)

        wait_until(has_warned)
        assert passwords == {"token 1"}
        assert "Cannot renew an ECR token, which is valid for 1800 s more: TimedOut: " in caplog.messages[0]

    def test_a_lookup_that_waits_for_another_process_times_out(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No failure is recorded, because the process has not called AWS."""
        monkeypatch.setattr(cache_module, "LOOKUP_TIMEOUT_SECONDS", 0.05)
        nowhere = replace(IDENTITY, region=None)
        with held(host.store, nowhere), pytest.raises(TokenError, match=r"TimedOut: .*region: none\)"):
            host.look_up(host.new_cache(), nowhere)
        assert host.look_up(host.new_cache(), nowhere) == "token 1"

    def test_a_process_ends_while_a_request_hangs(self) -> None:
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


def test_the_timeouts_of_a_lookup_fit_together() -> None:
    """Other processes still wait when a timeout is recorded or a lock replaced, and each lookup ends within 30 s."""
    assert credentials.SEARCH_TIMEOUT_SECONDS < REQUEST_TIMEOUT_SECONDS < LOCK_TIMEOUT_SECONDS < LOOKUP_TIMEOUT_SECONDS
    assert RENEWAL_TIMEOUT_SECONDS + LOOKUP_TIMEOUT_SECONDS <= 30


class TestForksAndThreads:
    def test_a_forked_child_starts_without_a_refresh_and_with_a_free_lock(self) -> None:
        """The thread of the parent's refresh does not run in the child."""
        memory = Memory()
        memory.reset_in_children()
        running: Future[Any] = Future()
        memory.join("key", running)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            new: Future[Any] = Future()
            is_first = memory.join("key", new) is new
            memory.put(build_entry(token=build_token()))
            os._exit(0 if is_first else 1)

        assert os.waitpid(child, 0) == (child, 0)
        assert memory.join("key", Future()) is running

    def test_no_caller_joins_a_refresh_that_was_cancelled_before_it_started(self) -> None:
        memory = Memory()
        cancelled: Future[Any] = Future()
        memory.join("key", cancelled)
        cancelled.cancel()
        new: Future[Any] = Future()

        assert memory.join("key", new) is new
        assert memory.join("key", Future()) is new

    def test_a_caller_whose_refresh_is_cancelled_by_its_starter_tries_again(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For example when Airflow's task timeout interrupts the thread that registered the refresh."""
        cache = host.new_cache()
        cancelled: Future[Any] = Future()
        cancelled.cancel()
        joined = iter([cancelled])
        join = cache._memory.join
        monkeypatch.setattr(cache._memory, "join", lambda key, new: next(joined, None) or join(key, new))

        assert host.look_up(cache) == "token 1"

    def test_a_caller_that_is_interrupted_before_its_refresh_starts_cancels_it(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next lookup starts its own refresh."""
        cache = host.new_cache()
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, "start_thread", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                host.look_up(cache)

        assert host.look_up(cache) == "token 1"

    def test_a_process_that_cannot_start_threads_requests_a_token(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For example when it is about to exit."""
        monkeypatch.setattr("threading.Thread.start", Mock(side_effect=RuntimeError("can't start new thread")))

        assert host.new_process()() == "token 1"
        assert host.aws.calls == 1


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
        if not place[0].startswith(package) or "__del__" in callers:  # Python ignores exceptions in __del__
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

    # In a new thread, because an exception within an except clause may leave the other one behind in its thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


@pytest.mark.parametrize("age", [None, 0, RENEWAL_DUE, 12 * HOUR])
def test_an_interruption_at_any_line_leaks_nothing(host: Host, age: float | None) -> None:
    """No lock, descriptor or refresh: the next lookups of the process and of the host are served at once."""

    def prepare() -> TokenCache:
        survey = CacheFolder.inspect(host.store)
        for file in survey.files:
            delete(str(survey.path), file.name)
        host.clock.move_to(datetime.fromtimestamp(NOW, timezone.utc))
        if age is not None:
            host.write(Entry.of_token(IDENTITY.key, "", build_token()))
            host.clock.tick(age)
        return host.new_cache()

    host.look_up(prepare())
    for line in range(1000):
        cache = prepare()
        is_interrupted = interrupt(partial(host.look_up, cache), line)
        for process in (cache, host.new_cache()):
            began = time.perf_counter_ns()
            assert host.look_up(process)
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
                lambda file: file.write_bytes(build_entry(token=build_token(), key=OTHER.key).to_json()),
                "a file of the cache is damaged, or of another version",
            ),
            (lambda file: file.chmod(0o640), "a file of the cache is open to other users"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_reported_once_and_replaced(
        self, host: Host, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], problem: str
    ) -> None:
        host.new_process()()
        host.damage(damage)

        assert host.new_process()() == "token 2"
        assert host.new_process()() == "token 2"
        (message,) = caplog.messages
        assert f": {problem}. Run `ecr" in message

    def test_each_fault_of_the_cache_is_reported(
        self, host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.new_process()()
        host.damage(lambda file: file.write_bytes(b"garbage"))
        monkeypatch.setattr(HostStore, "write", raise_error(errno.ENOSPC))
        monkeypatch.setattr(HostStore, "take_lock", raise_error(errno.ENOLCK))
        host.new_process()()

        assert [re.findall("more often: (.*?)\\.", message)[0] for message in caplog.messages] == [
            "a file of the cache is damaged, or of another version",
            "No locks available",
            "No space left on device",
        ]

    def test_a_file_names_its_identity_in_words(self, host: Host, tmp_path: Path) -> None:
        """The name of the file is a digest."""
        cache = host.new_cache()
        host.look_up(cache, OTHER)
        host.fail(partial(host.look_up, cache))

        entries = [Entry.from_json(file.read_bytes()) for file in tmp_path.glob("*/*.json")]
        assert {entry.identity for entry in entries if entry} == {"profile other", build_failure().identity}

    def test_a_refresh_removes_expired_entries(self, host: Host, tmp_path: Path) -> None:
        """Identities that keep changing do not fill the host's cache."""
        cache = host.new_cache()
        for number in range(30):
            host.look_up(cache, replace(IDENTITY, environment=str(number)))
        host.clock.tick(TWELVE_HOURS)
        host.look_up(cache)

        wait_until(lambda: len(list(tmp_path.glob("*/*"))) == 2)

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from os import strerror
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import cache as cache_module
from ecr_secrets_backend import credentials, entry
from ecr_secrets_backend.cache import Memory, Served, TokenCache
from ecr_secrets_backend.entry import BACK_OFF_SECONDS
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.unit.builders import HOUR, NOW, TWELVE_HOURS, build_entry, build_failure, build_token
from tests.unit.folders import cache_descriptors, hold
from tests.unit.interruptions import interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ecr_secrets_backend.host_lock import HostLock
    from ecr_secrets_backend.token import EcrToken

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
OTHER = replace(IDENTITY, profile_name="other")
RENEWAL_DUE = 11 * HOUR
HALF_AN_HOUR_LEFT = 11.5 * HOUR
TOO_OLD = 11.75 * HOUR


class Aws:
    """Returns tokens by the frozen clock, counts the calls, and fails or waits on demand."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False
        self.lifetime = TWELVE_HOURS
        self.is_called, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def request_token(self) -> EcrToken:
        self.is_called.set()
        assert self.may_answer.wait(20)
        self.calls += 1
        if self.fails:
            raise TokenError(build_failure())
        return build_token(received_at=time.time(), lifetime=self.lifetime, password=f"token {self.calls}")


class Host:
    """A host with any number of processes, which share a folder, a clock and AWS."""

    def __init__(self, store: HostStore, clock: Any) -> None:
        self.store = store
        self.clock = clock
        self.aws = Aws()

    def new_cache(self) -> TokenCache:
        """Return the cache of a new process."""
        return TokenCache(self.store, HOUR, Memory())

    def new_process(self) -> Callable[[], str]:
        """Return a new process: its lookup, which returns the password of the token."""
        return partial(self.look_up, self.new_cache())

    def old_cache(self, age: float) -> TokenCache:
        """Return the cache of a process that has received a token so many seconds ago."""
        cache = self.new_cache()
        self.look_up(cache)
        self.clock.tick(age)
        return cache

    def get(self, cache: TokenCache) -> Served:
        return cache.get(IDENTITY, self.aws.request_token)

    def look_up(self, cache: TokenCache, identity: AwsIdentity = IDENTITY) -> str:
        return cache.get(identity, self.aws.request_token).token.password

    def fail(self, lookup: Callable[[], object]) -> TokenError:
        """Look up while AWS fails and no token can be served, and return the exception."""
        self.aws.fails = True
        with pytest.raises(TokenError) as caught:
            lookup()
        self.aws.fails = False
        return caught.value

    def write(self, **fields: Any) -> None:
        """Write an entry of another process."""
        written = build_entry(key=IDENTITY.key, **fields)
        self.store.write(f"{written.key}.json", written.to_json(), written.expires_at)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Lookups wait for each renewal, also on a busy machine. Tests of the timeout set their own."""
    monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 30.0)
    with freeze_time(datetime.fromtimestamp(NOW, timezone.utc)) as clock:
        yield Host(HostStore(str(tmp_path)), clock)


@pytest.fixture
def slow_aws() -> Iterator[Aws]:
    """Answers when the test allows it."""
    slow_aws = Aws()
    slow_aws.may_answer.clear()
    yield slow_aws
    slow_aws.may_answer.set()


@pytest.fixture
def frozen_uptime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The uptime of the host, which the test moves."""
    frozen = SimpleNamespace(seconds=entry.uptime())
    monkeypatch.setattr(entry, "uptime", lambda: frozen.seconds)
    return frozen


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not happen within 20 s")


def raise_error(code: int) -> Mock:
    return Mock(side_effect=OSError(code, strerror(code)))


@pytest.mark.parametrize("age", [None, RENEWAL_DUE, TOO_OLD])
def test_the_first_lookup_of_a_host_requests_a_token_that_serves_all(host: Host, age: float | None) -> None:
    """Each lookup reports the source of its token, and the first one the seconds of its request."""
    caches = [host.new_cache(), host.new_cache()]
    if age is not None:
        for cache in caches:
            host.look_up(cache)
        host.clock.tick(age)
    calls = host.aws.calls
    served = [host.get(cache) for cache in (*caches, *caches, host.new_cache())]

    assert {each.token.password for each in served} == {f"token {calls + 1}"}
    assert [each.source for each in served] == ["mint", "host_hit", "process_hit", "process_hit", "host_hit"]
    assert [each.request_seconds is not None for each in served] == [True, False, False, False, False]


def test_a_fresh_token_serves_all_processes_and_is_read_once_by_each(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock."""
    caches = [host.new_cache(), host.old_cache(10.8 * HOUR), host.new_cache()]
    monkeypatch.setattr(HostStore, "take_lock", lambda *_: pytest.fail("a lock was taken"))
    passwords = [host.look_up(cache) for cache in caches]
    monkeypatch.setattr(HostStore, "read", lambda *_: pytest.fail("the host was read"))
    passwords += [host.look_up(cache) for cache in caches]

    assert {*passwords} == {"token 1"}


def test_old_tokens_and_identities_that_keep_changing_do_not_fill_the_memory(host: Host) -> None:
    memory = Memory()
    memory.put(build_entry(token=build_token()))
    host.clock.tick(TOO_OLD - 1)
    assert memory.get("a-key") is not None
    host.clock.tick(1)
    assert memory.get("a-key") is None

    for number in range(5_000):
        memory.put(build_entry(key=str(number), token=build_token(received_at=time.time())))
    assert memory.get("0") is None
    assert memory.get("4999") is not None


def test_while_aws_fails_the_current_token_is_served_with_a_warning(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the cause, the identity and the region. Only the first lookup has requested a token."""
    cache = host.old_cache(HALF_AN_HOUR_LEFT)
    host.aws.fails = True
    served = [host.get(cache) for _ in range(2)]

    found = [(each.token.password, each.source, each.request_seconds is not None) for each in served]
    assert found == [("token 1", "stale", True), ("token 1", "stale", False)]
    assert host.aws.calls == 2
    expected = f"Cannot renew an ECR token, which is valid for 1800 s more: {build_failure()}"
    assert caplog.record_tuples == [("ecr_secrets_backend.cache", logging.WARNING, expected)]
    assert re.search("AccessDeniedException.*a role.*us-east-1", expected)


def test_while_aws_fails_all_processes_together_call_it_once_in_a_back_off(host: Host) -> None:
    """The back-off doubles up to 120 s, so ten minutes of an outage cost about nine calls."""
    cache = host.old_cache(RENEWAL_DUE)
    host.aws.fails = True
    for _ in range(600):
        host.look_up(cache)
        host.new_process()()
        host.clock.tick(1)

    assert 5 + 3 <= host.aws.calls - 1 <= 5 + 5


def test_a_process_warns_once_a_minute_for_each_identity(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    cache = host.new_cache()
    for second in range(3 * 60 + 1):
        for identity in (IDENTITY, OTHER):
            host.look_up(cache, identity)
        host.clock.tick(1 if second else RENEWAL_DUE)
        host.aws.fails = True

    assert len(caplog.records) == 2 * 180 / cache_module.WARNING_INTERVAL_SECONDS


def test_a_failure_without_a_token_is_repeated_without_a_call_until_the_back_off_ends(host: Host) -> None:
    """The next callers of the host raise the same cause, each with an exception of its own."""
    errors = []
    for _ in range(5):
        errors.append(host.fail(host.new_process()))
        host.clock.tick(0.7)

    assert {error.failure for error in errors} == {build_failure()}
    assert len({*map(id, errors)}) == 5
    assert host.aws.calls == 1
    host.clock.tick(BACK_OFF_SECONDS - 5 * 0.7)
    assert host.new_process()() == "token 2"


@pytest.mark.parametrize("has_store", [True, False])
def test_failures_are_counted_across_pauses_longer_than_the_back_off(host: Host, has_store: bool) -> None:
    """With one lookup a minute, a host on which all requests fail calls AWS every two minutes."""
    cache = TokenCache(host.store if has_store else None, HOUR, Memory())
    for _ in range(60):
        host.fail(partial(host.look_up, cache))
        host.clock.tick(60)

    assert 30 <= host.aws.calls <= 36


def test_a_token_of_another_process_ends_the_back_off(host: Host) -> None:
    lookup = host.new_process()
    host.fail(lookup)
    host.clock.tick(1)
    host.write(token=build_token(), recorded_at=NOW + 1)

    assert lookup() == "a-token"


def test_a_process_backs_off_although_its_failure_is_not_on_the_host(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry in memory is newer than a file that could not be replaced."""
    cache = host.old_cache(RENEWAL_DUE)
    host.aws.fails = True
    monkeypatch.setattr(HostStore, "write", raise_error(errno.ENOSPC))

    assert [host.look_up(cache) for _ in range(3)] == ["token 1"] * 3
    assert host.aws.calls == 2


def test_a_logging_filter_or_callback_that_raises_fails_no_lookup(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module.logger, "filters", [lambda _: 1 / 0])
    cache = host.new_cache()
    assert cache.get(IDENTITY, host.aws.request_token, lambda *_: 1 / 0).token.password == "token 1"
    host.clock.tick(HALF_AN_HOUR_LEFT)
    host.aws.fails = True

    assert host.look_up(cache) == "token 1"


class TestClocks:
    def test_a_clock_that_goes_forth_and_back_costs_one_call(self, host: Host) -> None:
        """A clock that is set back costs none. All processes use the token that was received at the later time."""
        known = host.old_cache(0)
        for hours in (-2, 22, -20, 20):
            host.clock.tick(timedelta(hours=hours))
            expected = "token 1" if hours == -2 else "token 2"
            assert (host.look_up(known), host.new_process()()) == (expected, expected)

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
        assert [line.count("valid for 1800 s more") for line in caplog.messages] == [1, 1]
        frozen_uptime.seconds += 0.5 * HOUR
        host.aws.fails = fails

        for process in (host.new_process(), lookup):
            with pytest.raises(TokenError) if fails else nullcontext():
                assert process() == "token 3"
        assert host.aws.calls == 3

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

    @pytest.mark.parametrize("is_read_only", [False, True])
    @pytest.mark.parametrize(
        "result", [{"token": build_token()}, {"failure": build_failure()}], ids=["token", "failure"]
    )
    def test_an_entry_from_the_future_is_ignored_after_a_restart_of_the_host(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], is_read_only: bool
    ) -> None:
        """Its age is unknown. It is replaced by one call, or by one for each process on a read-only file system."""
        host.write(**result, age=-HOUR)
        host.clock.tick(timedelta(hours=-1))
        if is_read_only:
            monkeypatch.setattr(HostStore, "write", raise_error(errno.EROFS))
        first = host.new_process()
        processes = [first] * 3 if is_read_only else [first, host.new_process(), host.new_process()]

        assert [process() for process in processes] == ["token 1"] * 3
        assert host.aws.calls == 1


@pytest.mark.parametrize("age", [0, RENEWAL_DUE])
def test_identities_do_not_wait_for_each_other(host: Host, slow_aws: Aws, age: float) -> None:
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


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_look_up_together_request_one_token(host: Host, slow_aws: Aws, fails: bool) -> None:
    """One of them reports the request. If it fails, each raises its own exception, with its own traceback."""
    slow_aws.fails = fails
    cache = host.new_cache()

    def look_up(_: int) -> Served | TokenError:
        try:
            return cache.get(IDENTITY, slow_aws.request_token)
        except TokenError as error:
            return error

    with ThreadPoolExecutor(20) as threads:
        pending = threads.map(look_up, range(20))
        assert slow_aws.is_called.wait(20)
        slow_aws.may_answer.set()
        results = list(pending)

    assert {isinstance(result, TokenError) for result in results} == {fails}
    assert len({*map(id, results)}) == 20
    assert slow_aws.calls == sum(result.request_seconds is not None for result in results) == 1


@pytest.mark.parametrize("is_recorded", [True, False])
def test_no_lookup_waits_for_a_renewal_of_another_thread_or_process(
    host: Host, slow_aws: Aws, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_recorded: bool
) -> None:
    """It returns the current token at once, without a warning, also before the renewal is recorded."""
    if not is_recorded:
        monkeypatch.setattr(entry.Entry, "with_renewal", lambda renewed: renewed)
    cache, other = host.old_cache(RENEWAL_DUE), host.new_cache()
    with ThreadPoolExecutor() as threads:
        renewal = threads.submit(cache.get, IDENTITY, slow_aws.request_token)
        assert slow_aws.is_called.wait(20)
        served = [host.get(process) for process in (cache, other)]
        assert not renewal.done()
        slow_aws.may_answer.set()
        assert renewal.result().source == "mint"

    assert [(each.token.password, each.source) for each in served] == [("token 1", "stale")] * 2
    assert caplog.records == []


def test_a_renewal_that_takes_longer_than_its_caller_waits_is_not_a_failure(
    host: Host, slow_aws: Aws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller returns the current token. The new one is recorded when it arrives, and no line warns."""
    monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)
    cache = host.old_cache(RENEWAL_DUE)

    assert cache.get(IDENTITY, slow_aws.request_token).token.password == "token 1"
    slow_aws.calls = host.aws.calls
    slow_aws.may_answer.set()
    wait_until(lambda: host.look_up(cache) == "token 2")
    assert host.new_process()() == "token 2"
    assert caplog.records == []
    assert host.aws.calls == 1


def test_a_token_that_becomes_too_old_during_its_renewal_is_not_served(
    host: Host, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("age", [None, RENEWAL_DUE])
def test_a_token_that_was_recorded_before_the_lock_was_taken_is_used(
    host: Host, monkeypatch: pytest.MonkeyPatch, age: float | None
) -> None:
    """Another process may request it between the read of the host and the lock."""
    cache = host.new_cache() if age is None else host.old_cache(age)
    calls = host.aws.calls
    take_lock = HostStore.take_lock

    def take_lock_late(*arguments: Any) -> HostLock | None:
        host.write(token=build_token(received_at=time.time()), recorded_at=time.time())
        return take_lock(*arguments)

    monkeypatch.setattr(HostStore, "take_lock", take_lock_late)

    assert host.look_up(cache) == "a-token"
    assert host.aws.calls == calls


@pytest.mark.parametrize("age", [None, 12 * HOUR])
def test_a_process_that_waits_for_another_one_polls_until_its_token_arrives(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age: float | None
) -> None:
    """Soon at first, then at most twenty times a second, and not in step with others: hundreds may wait.

    It does not need the lock for that, so all waiting processes continue together.
    """
    if age is not None:
        host.write(token=build_token(received_at=NOW - age, password="expired"), recorded_at=NOW - age)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 40:
            host.write(token=build_token())

    monkeypatch.setattr("time.sleep", sleep)
    with hold(host.store, IDENTITY.key):
        assert host.new_process()() == "a-token"

    assert (host.aws.calls, caplog.records) == (0, [])
    assert waited[0] < 0.005
    assert sum(waited[:8]) < 0.1
    assert all(0.05 <= pause <= 0.1 for pause in waited[20:])
    assert len(set(waited)) == len(waited) == 40


def test_the_lock_of_a_stuck_process_is_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """After longer than a request may take, and early enough for the waiting lookup."""
    began = time.monotonic()
    monkeypatch.setattr("time.sleep", host.clock.tick)
    with hold(host.store, IDENTITY.key):
        assert host.new_process()() == "token 1"

    assert cache_module.LOCK_TIMEOUT_SECONDS <= time.monotonic() - began < cache_module.LOOKUP_TIMEOUT_SECONDS


class TestHangs:
    @pytest.fixture(autouse=True)
    def _short_timeouts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "REQUEST_TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr(cache_module, "RENEWAL_TIMEOUT_SECONDS", 0.05)

    def test_a_request_that_hangs_is_abandoned_and_blocks_no_later_one(self, host: Host, slow_aws: Aws) -> None:
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

    def test_a_token_that_arrives_after_its_request_was_abandoned_is_recorded(self, host: Host, slow_aws: Aws) -> None:
        """It ends the back-off of all processes of the host."""
        with pytest.raises(TokenError):
            host.new_cache().get(IDENTITY, slow_aws.request_token)
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
            host.write(token=build_token(), recorded_at=NOW + 1)
            raise TokenError(build_failure())

        assert host.new_cache().get(IDENTITY, request_late).token.password == "a-token"
        assert host.new_process()() == "a-token"

    @pytest.mark.timeout(20)
    def test_a_lookup_that_waits_for_another_process_times_out(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No failure is recorded, because the process has not called AWS."""
        monkeypatch.setattr(cache_module, "LOOKUP_TIMEOUT_SECONDS", 0.05)
        nowhere = replace(IDENTITY, region=None)
        with hold(host.store, nowhere.key), pytest.raises(TokenError, match=r"no answer within 0 s .*region: none\)"):
            host.look_up(host.new_cache(), nowhere)

        assert host.look_up(host.new_cache(), nowhere) == "token 1"


def test_the_timeouts_of_a_lookup_fit_together() -> None:
    """Other processes still wait when a timeout is recorded or a lock replaced, and each lookup ends within 30 s."""
    searching, requesting = credentials.SEARCH_TIMEOUT_SECONDS, entry.REQUEST_TIMEOUT_SECONDS
    assert searching < requesting < cache_module.LOCK_TIMEOUT_SECONDS < cache_module.LOOKUP_TIMEOUT_SECONDS
    assert cache_module.RENEWAL_TIMEOUT_SECONDS + cache_module.LOOKUP_TIMEOUT_SECONDS <= 30


def test_no_caller_waits_for_a_refresh_that_was_cancelled(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example when Airflow's task timeout interrupts its starter. A caller that has joined it tries again."""
    cache = host.new_cache()
    start = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "start_thread", start)
        with pytest.raises(KeyboardInterrupt):
            host.look_up(cache)
    ((_, cancelled),) = (call.args for call in start.mock_calls)
    joined, join = iter([cancelled]), cache._memory.join

    assert host.look_up(cache) == "token 1"
    monkeypatch.setattr(cache._memory, "join", lambda key, new: next(joined, None) or join(key, new))
    assert host.look_up(cache, OTHER) == "token 2"


def test_a_process_that_cannot_start_threads_requests_a_token(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example when it is about to exit."""
    monkeypatch.setattr("threading.Thread.start", Mock(side_effect=RuntimeError("can't start new thread")))

    assert host.new_process()() == "token 1"
    assert host.aws.calls == 1


@pytest.mark.parametrize("age", [None, 0, RENEWAL_DUE, 12 * HOUR])
def test_an_interruption_at_any_step_leaks_nothing(host: Host, tmp_path: Path, age: float | None) -> None:
    """No lock, descriptor or refresh: the next lookups of the process and of the host are served at once."""

    def prepare() -> TokenCache:
        for file in tmp_path.glob("*/*"):
            file.unlink(missing_ok=True)  # the refresh may be removing it
        host.clock.move_to(datetime.fromtimestamp(NOW, timezone.utc))
        if age is not None:
            host.write(token=build_token())
            host.clock.tick(age)
        return host.new_cache()

    host.look_up(prepare())
    for step in range(1000):
        cache = prepare()
        is_interrupted = interrupt(partial(host.look_up, cache), step, within_lines=True)
        for process in (cache, host.new_cache()):
            began = time.perf_counter_ns()
            assert host.look_up(process)
            assert time.perf_counter_ns() - began < 5e9
        wait_until(lambda: cache_descriptors() == [])
        if not is_interrupted:
            break

    assert 20 < step < 999


@pytest.mark.parametrize("content", [b"garbage", build_entry(token=build_token()).to_json()], ids=["damaged", "other"])
def test_each_fault_of_the_cache_is_reported_once(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A file that is damaged, or of another identity, is replaced as soon as the disk has space again."""
    host.store.write(f"{IDENTITY.key}.json", content, NOW + HOUR)
    process = host.new_process()
    with monkeypatch.context() as patch:
        patch.setattr(HostStore, "write", raise_error(errno.ENOSPC))
        patch.setattr(HostStore, "take_lock", raise_error(errno.ENOLCK))
        assert (process(), process()) == ("token 1", "token 1")

    assert [re.findall("more often: (.*?). Run `ecr", message)[0] for message in caplog.messages] == [
        "a file of the cache is damaged, or of another version",
        "No locks available",
        "No space left on device",
    ]
    assert (host.new_process()(), host.new_process()()) == ("token 2", "token 2")


def test_a_refresh_removes_expired_entries(host: Host, tmp_path: Path) -> None:
    """Identities that keep changing do not fill the host's cache."""
    cache = host.new_cache()
    for number in range(30):
        host.look_up(cache, replace(IDENTITY, environment=str(number)))
    host.clock.tick(TWELVE_HOURS)
    host.look_up(cache)

    wait_until(lambda: len(list(tmp_path.glob("*/*"))) == 2)

"""The token cache: the process's memory, the host's folder, and one refresh at a time."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # Python's own from 3.11 on
from contextlib import nullcontext, suppress
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from cachetools import LRUCache, TLRUCache

from ecr_secrets_backend.bounded import start_thread, within
from ecr_secrets_backend.entry import REQUEST_TIMEOUT_SECONDS, Entry
from ecr_secrets_backend.errors import TokenError, TokenFailure
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

T = TypeVar("T")
Default = TypeVar("Default")

#: The longest wait of a lookup if no token can be served. Together with the wait for a renewal, it is below 30 s.
LOOKUP_TIMEOUT_SECONDS: Final = 28.0
#: The longest wait of the lookup that starts a renewal, while the current token can be served.
RENEWAL_TIMEOUT_SECONDS: Final = 1.0
#: After this time, another process replaces the host lock of a process. A request to AWS takes less.
LOCK_TIMEOUT_SECONDS: Final = 22.0
#: The pauses of a process that waits for another one and reads the host's file: short at first, then longer, because
#: hundreds of processes may wait.
FIRST_POLL_SECONDS: Final = 0.002
LONGEST_POLL_SECONDS: Final = 0.1
#: While AWS fails, a process logs one warning in this time for each identity.
WARNING_INTERVAL_SECONDS: Final = 60.0

_MAX_ENTRIES: Final = 4096  # bounds the memory if identities keep changing; no configuration has that many

#: The source of a lookup's token, in this order: the memory of this process; another process or thread of this host;
#: the lookup's own request to AWS; or the current token, while its renewal is running or fails.
Source = Literal["process_hit", "host_hit", "mint", "stale"]

RequestToken = Callable[[], EcrToken]
OnToken = Callable[[EcrToken, float], object]
#: Requests a token and records it.
Request = Callable[[], Entry]
#: The newest entry after a refresh, and the seconds that the refresh's own request to AWS took; None: it made none.
RefreshResult = tuple[Entry, float | None]


class Memory:
    """The entries and refreshes of one process. All backends share them: Airflow builds a backend for many lookups."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # cachetools' caches are not thread-safe
        self._entries: TLRUCache[str, Entry] = TLRUCache(
            _MAX_ENTRIES,
            ttu=lambda _key, entry, _now: entry.expires_at,
            timer=lambda: time.time(),  # noqa: PLW0108 - looks time.time up at each call, so that freezegun moves it
        )
        #: A refresh is kept while its thread runs or a caller waits for it.
        self._refreshes: WeakValueDictionary[str, Future[RefreshResult]] = WeakValueDictionary()
        self._holder_seen_at: LRUCache[str, float] = LRUCache(_MAX_ENTRIES)
        self._warned_at: LRUCache[str, float] = LRUCache(_MAX_ENTRIES)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key."""
        try:
            with self._lock:
                return self._entries[key]  # takes a third of the time of get()
        except KeyError:
            return None

    def put(self, entry: Entry) -> None:
        """Replace the entry of its key."""
        with self._lock:
            self._entries[entry.key] = entry

    def join(self, key: str, new: Future[RefreshResult]) -> Future[RefreshResult]:
        """Return the running refresh of a key. If none is running, register the new one and return it."""
        with self._lock:
            refresh = self._refreshes.get(key)
            if refresh is None or refresh.done():
                refresh = self._refreshes[key] = new
            return refresh

    def is_stuck(self, holder_id: str) -> bool:
        """Return whether the process that wrote this ID has a host lock for longer than the timeout."""
        now = time.monotonic()
        with self._lock:
            return now - self._holder_seen_at.setdefault(holder_id, now) >= LOCK_TIMEOUT_SECONDS

    def should_warn(self, subject: str, interval: float) -> bool:
        """Return True once in an interval of seconds for each subject."""
        now = time.monotonic()
        with self._lock:
            is_due = now - self._warned_at.get(subject, -math.inf) >= interval
            if is_due:
                self._warned_at[subject] = now
            return is_due

    def reset_in_children(self) -> None:
        """Release the lock in each forked child, and remove the refreshes, as their threads do not run there."""
        os.register_at_fork(before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._reset)

    def _reset(self) -> None:
        self._refreshes = WeakValueDictionary()
        self._lock.release()


_memory: Final = Memory()
_memory.reset_in_children()


class Served(NamedTuple):
    """A token that may be served."""

    token: EcrToken
    source: Source
    request_seconds: float | None = None  #: of this lookup's own request to AWS, even if it failed; None: no request


class TokenCache:
    """Tokens by identity. At most one process of the host requests a token of an identity at a time.

    :param store: the host's folder; None: each process caches for itself
    :param refresh_before: how many seconds before it expires a token is renewed
    :param memory: entries and refreshes; None: those that all backends of the process share
    """

    def __init__(self, store: HostStore | None, refresh_before: float, memory: Memory | None = None) -> None:
        self._store = store
        self._refresh_before = refresh_before
        self._memory = memory or _memory

    def get(self, identity: AwsIdentity, request_token: RequestToken, on_token: OnToken = lambda *_: None) -> Served:
        """Return a token that may be served.

        :param request_token: requests a new token from AWS; raises TokenError
        :param on_token: called with a new token, after it is recorded, and with the seconds that its request took
        :raises TokenError: no token can be served, because the last request failed or timed out
        """
        known = self._memory.get(identity.key)
        if known is not None and (token := known.fresh_token(self._refresh_before)):
            return Served(token, "process_hit")
        request = partial(self._request_and_record, identity, request_token, on_token)
        deadline = time.monotonic() + LOOKUP_TIMEOUT_SECONDS
        while True:
            entry, seconds = self._newest_entry(identity.key), None
            if entry.is_due(self._refresh_before):
                entry, seconds = self._join_refresh(identity, request, entry, deadline)
            if token := entry.servable_token():
                return self._serve(token, entry, seconds)
            if entry.failure is not None:
                raise TokenError(entry.failure, seconds)
            # The token became too old during its renewal, or the caller that started the refresh was interrupted.

    def _newest_entry(self, key: str) -> Entry:
        """Return the newer of the entries in memory and on the host."""
        known = self._memory.get(key) or Entry(key)
        found = self._try_store(lambda store: _read_entry(store, key), None)
        # If the age is negative, it is not known.
        if found is None or not 0 <= found.age() < known.age():
            return known
        self._memory.put(found)
        return found

    def _join_refresh(self, identity: AwsIdentity, request: Request, entry: Entry, deadline: float) -> RefreshResult:
        """Join the running refresh or start one, and return its result. After a timeout, return the given entry.

        An exception such as Airflow's task timeout may interrupt the calling thread at each line. It cancels a refresh
        that has not started, and other callers try again. A started refresh goes on in its own thread.

        :raises TokenError: no token can be served, and the refresh has not ended by the deadline
        """
        new: Future[RefreshResult] = Future()
        is_servable = entry.servable_token() is not None
        try:
            refresh = self._memory.join(identity.key, new)
            if refresh is new:
                start_thread(partial(self._refresh, new, identity, request), new)
            renewal_timeout = RENEWAL_TIMEOUT_SECONDS if refresh is new else 0
            newest, seconds = refresh.result(renewal_timeout if is_servable else max(0, deadline - time.monotonic()))
        except CancelledError:
            return Entry(identity.key), None
        except FutureTimeoutError:
            if is_servable:
                return entry, None
            raise TokenError(_timeout_failure(identity, LOOKUP_TIMEOUT_SECONDS)) from None
        except BaseException:
            new.cancel()
            raise
        return newest, seconds if refresh is new else None

    def _refresh(self, refresh: Future[RefreshResult], identity: AwsIdentity, request: Request) -> RefreshResult:
        """Request a token if this process gets the host lock. Otherwise wait until another process records one."""
        pause = FIRST_POLL_SECONDS
        while True:
            # If the host's folder cannot be used, the process goes on without a lock.
            lock = self._try_store(lambda store: store.take_lock(identity.key, self._memory.is_stuck), nullcontext())
            with lock or nullcontext():
                entry = self._newest_entry(identity.key)
                is_renewed_elsewhere = lock is None and entry.servable_token() is not None
                if is_renewed_elsewhere or not entry.is_due(self._refresh_before):
                    return entry, None
                if lock is not None:
                    # The callback runs after the refresh has ended, so no caller waits for it.
                    refresh.add_done_callback(lambda _: self._try_store(lambda store: store.remove_expired(), None))
                    return self._call_aws(identity, request, entry)
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)

    def _call_aws(self, identity: AwsIdentity, request: Request, entry: Entry) -> RefreshResult:
        """Request a token with a timeout. If it arrives later, the thread of the request still records it."""
        if entry.servable_token():
            entry = entry.with_renewal()
            self._record(entry)
        started_at = time.monotonic()
        try:
            return within(REQUEST_TIMEOUT_SECONDS, request), time.monotonic() - started_at
        except TokenError as error:
            failure = error.failure
        except TimeoutError:
            failure = _timeout_failure(identity, REQUEST_TIMEOUT_SECONDS)
        newest = self._newest_entry(identity.key)
        if newest.recorded_at <= entry.recorded_at:  # no other process or thread has recorded a result since
            newest = entry.with_failure(failure)
            self._record(newest)
        return newest, time.monotonic() - started_at

    def _request_and_record(self, identity: AwsIdentity, request_token: RequestToken, on_token: OnToken) -> Entry:
        started_at = time.monotonic()
        token = request_token()
        entry = Entry.of_token(identity.key, str(identity), token)
        self._record(entry)
        with suppress(Exception):
            on_token(token, time.monotonic() - started_at)
        return entry

    def _record(self, entry: Entry) -> None:
        self._memory.put(entry)
        self._try_store(lambda store: store.write(f"{entry.key}.json", entry.to_json(), entry.expires_at), None)

    def _serve(self, token: EcrToken, entry: Entry, seconds: float | None) -> Served:
        """Return a token with its source. If its renewal failed, warn."""
        if entry.failure is None and seconds is not None:
            return Served(token, "mint", seconds)
        if entry.fresh_token(self._refresh_before):
            return Served(token, "host_hit", seconds)
        if entry.failure is not None and self._memory.should_warn(f"stale {entry.key}", WARNING_INTERVAL_SECONDS):
            message = "Cannot renew an ECR token, which is valid for %.0f s more: %s"
            log(logger, logging.WARNING, message, token.expires_at - entry.now(), entry.failure)
        return Served(token, "stale", seconds)

    def _try_store(self, operation: Callable[[HostStore], T], default: Default) -> T | Default:
        """Return the result of an operation on the host's folder, or the default if it fails. Log each cause once."""
        try:
            return default if self._store is None else operation(self._store)
        except OSError as error:
            if self._memory.should_warn(f"store {error.strerror}", math.inf):
                message = (
                    "Cannot use the host's cache of ECR tokens in %s, so this process calls AWS more often: %s. "
                    "Run `ecr-secrets-backend status` as this user, or set cache_dir to another folder."
                )
                log(logger, logging.WARNING, message, self._store, error.strerror)
            return default


def _read_entry(store: HostStore, key: str) -> Entry | None:
    text = store.read(f"{key}.json")
    if text is None:
        return None
    entry = Entry.from_json(text)
    if entry is None or entry.key != key:
        raise OSError(errno.EBADMSG, "a file of the cache is damaged, or of another version")
    return entry


def _timeout_failure(identity: AwsIdentity, seconds: float) -> TokenFailure:
    fix = "Check what hangs: the network, a name server or proxy, or a source of credentials."
    return identity.failure("TimedOut", f"there was no answer within {seconds:.0f} s", fix)

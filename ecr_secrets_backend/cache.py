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

RequestToken = Callable[[], EcrToken]
OnToken = Callable[[EcrToken, float], object]
#: What a refresh came to, and for how many seconds it called AWS; None: it did not.
Refreshed = tuple[Entry, float | None]
Request = Callable[[], Refreshed]

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")

#: How long a lookup waits if no token can be served. With a renewal's wait before it, it stays below 30 s.
LOOKUP_TIMEOUT_SECONDS: Final = 28.0
#: How long the lookup that started a renewal waits for it, while the current token can be served.
RENEWAL_TIMEOUT_SECONDS: Final = 1.0
#: How long one holder of a host lock is believed to be at work: longer than a request. Then it is stopped or hangs.
LOCK_TIMEOUT_SECONDS: Final = 22.0
#: How often a refresh that waits for another process reads the host's file: seldom then, because hundreds may wait.
FIRST_PAUSE_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.1
#: While AWS fails, a process warns once in this time.
WARN_EVERY_SECONDS: Final = 60.0

_MOST_ENTRIES: Final = 4096  # bounds a process whose identities change; far above the identities of one configuration

#: Where a lookup's token comes from: this process's memory; another process or thread of the host; a request of its
#: own; or it is the current token, because a renewal is running or AWS fails.
Source = Literal["process_hit", "host_hit", "mint", "stale"]


class Served(NamedTuple):
    """A token that may be served."""

    token: EcrToken
    source: Source
    request_seconds: float | None = None  #: of this lookup's own request to AWS, also if it failed; None: it made none


class TokenCache:
    """Tokens by identity, renewed when they are due and by one caller of the host at a time.

    :param store: the host's folder; None: each process caches for itself
    :param refresh_before: seconds before it expires at which a token is renewed
    :param memory: None: the memory that all backends of the process share
    """

    def __init__(self, store: HostStore | None, refresh_before: float, memory: Memory | None = None) -> None:
        self._store = store
        self._refresh_before = refresh_before
        self._memory = memory or _memory

    def get(self, identity: AwsIdentity, request_token: RequestToken, on_token: OnToken = lambda *_: None) -> Served:
        """Return a token that may be served.

        :param mint: requests a new one from AWS; raises TokenError
        :param on_token: called with a new token, once it is recorded, and with the seconds that its request took
        :raises TokenError: there is none, and AWS returns none or returned none just now
        """
        known = self._memory.get(identity.key)
        if known is not None and (token := known.fresh_token(self._refresh_before)):
            return Served(token, "process_hit")
        request = partial(self._request_token, identity, request_token, on_token)
        deadline = time.monotonic() + LOOKUP_TIMEOUT_SECONDS
        while True:
            entry, seconds = self._newest(identity.key), None
            if entry.is_due(self._refresh_before):
                entry, seconds = self._refreshed(identity, request, entry, deadline)
            if token := entry.servable_token():
                return Served(token, self._source(token, entry, seconds), seconds)
            if entry.failure is not None:
                raise TokenError(entry.failure, seconds)
            # What there was has got too old meanwhile, or another caller was interrupted: look again.

    def _newest(self, key: str) -> Entry:
        """Return what the process or the host knows, whichever is newer."""
        known, found = self._memory.get(key) or Entry(key), self._on_host(lambda store: _read(store, key), None)
        # Below 0, it was recorded before the host started, by a later clock: how long ago cannot be known.
        if found is None or not 0 <= found.age() < known.age():
            return known
        self._memory.put(found)
        return found

    def _on_host(self, operation: Callable[[HostStore], T], otherwise: U) -> T | U:
        """Return what an operation on the host's folder returns. If it fails, go on without, and report why once."""
        try:
            return otherwise if self._store is None else operation(self._store)
        except OSError as error:
            if self._memory.should_warn(f"store {error.strerror}", math.inf):
                message = (
                    "The host's cache of ECR tokens (in %s) fails, so this process calls AWS more often: %s. "
                    "Run `ecr-secrets-backend status` as this user, or set cache_dir to another folder."
                )
                log(logger, logging.WARNING, message, self._store, error.strerror)
            return otherwise

    def _refreshed(self, identity: AwsIdentity, request: Request, entry: Entry, deadline: float) -> Refreshed:
        """Join the running refresh or start one, and wait for it, or for moments if the entry's token can be served.

        The calling thread may be interrupted at each line, by Airflow's task timeout for instance. A refresh that has
        not started then is cancelled, and its callers try again; one that has started runs in a thread of its own.

        :raises TokenError: there is nothing to serve, and the refresh has not ended by the deadline
        """
        mine: Future[Refreshed] = Future()
        is_servable = entry.servable_token() is not None
        try:
            refresh = self._memory.join(identity.key, mine)
            if refresh is mine:
                start_thread(partial(self._refresh, mine, identity, request), mine)
            renewal_timeout = RENEWAL_TIMEOUT_SECONDS if refresh is mine else 0
            refreshed = refresh.result(renewal_timeout if is_servable else max(0, deadline - time.monotonic()))
        except CancelledError:
            return Entry(identity.key), None
        except FutureTimeoutError:
            if is_servable:
                return entry, None
            raise TokenError(_timeout(identity, LOOKUP_TIMEOUT_SECONDS)) from None
        except BaseException:
            mine.cancel()
            raise
        return refreshed if refresh is mine else (refreshed[0], None)

    def _refresh(self, refresh: Future[Refreshed], identity: AwsIdentity, request: Request) -> Refreshed:
        """Request a token if this process gets the host lock, else wait until another process has recorded one."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            lock = self._on_host(lambda store: store.take_lock(identity.key, self._memory.is_stopped), nullcontext())
            with lock or nullcontext():
                entry = self._newest(identity.key)
                if not entry.is_due(self._refresh_before):
                    return entry, None
                if lock is not None:
                    # When its callers have their token:
                    refresh.add_done_callback(lambda _: self._on_host(lambda store: store.remove_expired(), None))
                    return self._request(identity, request, entry)
            if entry.servable_token():
                return entry, None  # another process renews it, which is not waited for
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    def _request(self, identity: AwsIdentity, request: Request, entry: Entry) -> Refreshed:
        """Request a token within a bounded time; one that arrives later is still recorded, by its own thread."""
        if entry.servable_token():
            entry = entry.with_renewal()
            self._record(entry)
        started_at = time.monotonic()
        try:
            return within(REQUEST_TIMEOUT_SECONDS, request)
        except TokenError as error:
            failure = error.failure
        except TimeoutError:
            failure = _timeout(identity, REQUEST_TIMEOUT_SECONDS)
        newest = self._newest(identity.key)
        if newest.recorded_at <= entry.recorded_at:  # nobody has recorded anything since
            newest = entry.with_failure(failure)
            self._record(newest)
        return newest, time.monotonic() - started_at

    def _request_token(self, identity: AwsIdentity, request_token: RequestToken, on_token: OnToken) -> Refreshed:
        started_at = time.monotonic()
        token = request_token()
        entry = Entry.of_token(identity.key, str(identity), token)
        self._record(entry)
        seconds = time.monotonic() - started_at
        with suppress(Exception):
            on_token(token, seconds)
        return entry, seconds

    def _record(self, entry: Entry) -> None:
        self._memory.put(entry)
        self._on_host(lambda store: store.write(f"{entry.key}.json", entry.to_json(), entry.useful_until), None)

    def _source(self, token: EcrToken, entry: Entry, seconds: float | None) -> Source:
        """Return where a token comes from; if AWS fails, so that it was not renewed, warn of that."""
        if entry.failure is None and seconds is not None:
            return "mint"
        if entry.fresh_token(self._refresh_before):
            return "host_hit"
        if entry.failure is not None and self._memory.should_warn(f"stale {entry.key}", WARN_EVERY_SECONDS):
            message = "An ECR token was not renewed; it is valid for %.0f s more. %s"
            log(logger, logging.WARNING, message, token.expires_at - entry.now(), entry.failure)
        return "stale"


def _read(store: HostStore, key: str) -> Entry | None:
    text = store.read(f"{key}.json")
    if text is None:
        return None
    entry = Entry.from_json(text)
    if entry is None or entry.key != key:
        raise OSError(errno.EBADMSG, "a file of the cache is damaged, or of another version")
    return entry


def _timeout(identity: AwsIdentity, seconds: float) -> TokenFailure:
    fix = "Check what hangs: the network, a name server or proxy, or a source of credentials."
    return identity.failure("TimedOut", f"there was no answer within {seconds:.0f} s", fix)


class Memory:
    """What one process knows. All its backends share one, because Airflow builds a backend for many lookups."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments only
        self._entries: TLRUCache[str, Entry] = TLRUCache(
            _MOST_ENTRIES,
            ttu=lambda _key, entry, _now: entry.useful_until,
            timer=lambda: time.time(),  # noqa: PLW0108 - looked up when it is needed
        )
        #: A refresh is in it while its thread runs or a caller waits for it.
        self._refreshes: WeakValueDictionary[str, Future[Refreshed]] = WeakValueDictionary()
        self._seen_at: LRUCache[str, float] = LRUCache(_MOST_ENTRIES)
        self._warned_at: LRUCache[str, float] = LRUCache(_MOST_ENTRIES)

    def get(self, key: str) -> Entry | None:
        """Return what is known under a key."""
        try:
            with self._lock:
                return self._entries[key]  # takes a third of the time of get()
        except KeyError:
            return None

    def put(self, entry: Entry) -> None:
        """Replace what is known under the entry's key."""
        with self._lock:
            self._entries[entry.key] = entry

    def join(self, key: str, refresh: Future[Refreshed]) -> Future[Refreshed]:
        """Return the refresh that is running for a key: the given one if there was none."""
        with self._lock:
            running = self._refreshes.get(key)
            if running is None or running.done():
                running = self._refreshes[key] = refresh
            return running

    def is_stopped(self, holder: str) -> bool:
        """Return whether this process has seen a holder of a host lock, whose ID is random, for too long."""
        now = time.monotonic()
        with self._lock:
            return now - self._seen_at.setdefault(holder, now) >= LOCK_TIMEOUT_SECONDS

    def should_warn(self, subject: str, every: float) -> bool:
        """Return whether a warning is due: once in ``every`` seconds for each subject."""
        now = time.monotonic()
        with self._lock:
            is_due = now - self._warned_at.get(subject, -math.inf) >= every
            if is_due:
                self._warned_at[subject] = now
            return is_due

    def survive_forks(self) -> None:
        """Let a child that is forked while other threads are at work begin with a free lock and no refresh."""
        os.register_at_fork(before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._reset)

    def _reset(self) -> None:
        self._refreshes = WeakValueDictionary()
        self._lock.release()


_memory: Final = Memory()
_memory.survive_forks()

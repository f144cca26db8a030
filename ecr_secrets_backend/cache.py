"""The token cache: a layer in the process, a layer shared by the host, and one mint at a time for both."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from ecr_secrets_backend.bounded import too_late, within
from ecr_secrets_backend.errors import MintError, MintFailure
from ecr_secrets_backend.token import EcrToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.host_store import HostStore
    from ecr_secrets_backend.identity import AwsIdentity

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: How a lookup came by its token: from what this process knew; from another process or thread of the host; from AWS; or
#: it is the old one, while another renews it or AWS gives none.
Source = Literal["process_hit", "host_hit", "mint", "stale"]
Served = tuple[EcrToken, Source]

#: After a failure nobody on the host asks AWS again for this long. Airflow retries a lookup that failed on its API
#: server for up to 18 s: those retries are to cost nothing.
BACK_OFF_SECONDS: Final = 20.0
#: ... or for this long while the old token serves: nobody minds, and a fleet of ten thousand hosts then makes less than
#: half of the 500 calls a second that ECR grants.
RENEWAL_BACK_OFF_SECONDS: Final = 120.0
#: ... but no more than this part of a token's life, so that short-lived tokens survive a fault.
BACK_OFF_PART: Final = 0.1
#: How long a lookup waits in all, whatever hangs: AWS, a name server, whoever has the turn.
LOOKUP_PATIENCE_SECONDS: Final = 28.0
#: ... how long of it for another process's mint, before it mints for itself: longer than a call that hangs.
HOST_PATIENCE_SECONDS: Final = 14.0
#: ... and how long while the old token serves: long enough for AWS when it is well, and nobody minds.
RENEWAL_PATIENCE_SECONDS: Final = 1.0
#: How often a waiting process looks whether the token is there: soon at first, then seldom, because hundreds may wait.
FIRST_LOOK_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.1
#: While AWS does not answer, a process says so once in this time.
WARN_EVERY_SECONDS: Final = 60.0

#: Seconds since this host was started, asleep or not: a clock that nobody can set.
uptime: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

_FORMAT: Final = 1
_DECODER: Final = json.JSONDecoder(parse_int=float)  # built once: a first lookup has no time for it
_MOST_ENTRIES: Final = 4096  # bounds a process whose identities change; far above the identities of one configuration


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one identity's token: never changed, only replaced.

    :param token: the last token that AWS gave, if any
    :param failure: why AWS gave none when it was asked last; None if it did
    :param recorded_at: when AWS was asked last, in seconds since the epoch, by the clock that tells the token's times
    :param uptime: the same moment in seconds since this host was started
    :param key: whose token: a file that was renamed is not another identity's
    :param identity: the same in words, for whoever looks into the cache
    """

    token: EcrToken | None = None
    failure: MintFailure | None = None
    recorded_at: float = -math.inf
    uptime: float = 0.0
    key: str = ""
    identity: str = ""

    def now(self, wall: float) -> float:
        """Tell the time by the clock that tells the token's times.

        That clock may have been set since. One that went forward is believed, which costs a token at the most. One that
        went back is not: at least as much time has passed as the host has been up.

        :param wall: seconds since the epoch by the clock as it is set now
        :return: seconds since the epoch
        """
        return max(wall, self.recorded_at + uptime() - self.uptime)

    def age(self, wall: float) -> float:
        """Tell how many seconds ago AWS was asked; less than none: before the host's last start, by a later clock."""
        return self.now(wall) - self.recorded_at

    def fresh(self, wall: float, refresh_before: float, kept_for: float = 0.0) -> EcrToken | None:
        """Give the token if it may be served without a thought of its renewal."""
        token = self.token
        return token if token is not None and token.is_fresh(self.now(wall), refresh_before, kept_for) else None

    def live(self, wall: float, kept_for: float = 0.0) -> EcrToken | None:
        """Give the token if it may still be served."""
        token = self.token
        return token if token is not None and token.is_alive(self.now(wall), kept_for) else None

    def failed(self, failure: MintFailure, wall: float) -> Entry:
        """Add that AWS was asked again and gave nothing."""
        return replace(self, failure=failure, recorded_at=self.now(wall), uptime=uptime(), identity=failure.identity)

    def pause_left(self, wall: float) -> float:
        """Tell for how many seconds more nobody is to ask AWS, because it gave no token just now."""
        age, pause = self.age(wall), _back_off(self, wall)
        return pause - age if self.failure is not None and 0 <= age < pause else 0.0

    def to_json(self) -> bytes:
        """Write it as the file of the host's cache holds it."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Entry | None:
        """Read what :meth:`to_json` wrote; None for any other bytes."""
        try:
            fields = _DECODER.decode(text.decode())
            if fields.pop("format") != _FORMAT:
                return None
            token = fields.pop("token")
            failure = fields.pop("failure")
            entry = cls(
                token=None if token is None else EcrToken(**token),
                failure=None if failure is None else MintFailure(**failure),
                **fields,
            )
            return entry if entry._is_sound() else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        """Tell whether its times can be compared; TypeError or ValueError: a text is none, or cannot be sent."""
        texts, times = [self.key, self.identity], [self.recorded_at, self.uptime]
        if self.token is not None:
            texts += [self.token.username, self.token.password]
            texts += [] if self.token.registry is None else [self.token.registry]
            times += [self.token.life, self.token.jitter]  # a life is finite only if both its ends are
        if self.failure is not None:
            texts += asdict(self.failure).values()
        "".join(texts).encode()
        return all(map(math.isfinite, times))


class ProcessLayer:
    """What one process knows, and whose turn it is among its threads. Reading takes no lock.

    There is one for all backends of a process, because Airflow builds the backend anew for many a lookup.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._writing = threading.Lock()
        self._said_at: dict[str, float] = {}

    def get(self, key: str) -> Entry | None:
        """Tell what is known under a key."""
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> None:
        """Replace what is known under a key."""
        with self._writing:
            self._entries[key] = entry
            if len(self._entries) > _MOST_ENTRIES:
                del self._entries[next(iter(self._entries))]  # the oldest

    def turn(self, key: str) -> threading.Lock:
        """Give the lock that a thread holds while it renews what is known under a key."""
        return self._turns.setdefault(key, threading.Lock())

    def may_say(self, what: str, every: float) -> bool:
        """Tell whether a warning is due: it is said once in ``every`` seconds."""
        now = time.monotonic()
        if now < self._said_at.get(what, -math.inf) + every:
            return False
        self._said_at[what] = now
        return True

    def survive_forks(self) -> None:
        """See to it that a child forked while other threads are at work finds all in order, and no turn taken."""
        os.register_at_fork(
            before=self._writing.acquire, after_in_parent=self._writing.release, after_in_child=self._begin_in_child
        )

    def _begin_in_child(self) -> None:
        self._writing.release()
        self._turns.clear()


_process_layer: Final = ProcessLayer()
_process_layer.survive_forks()


class TokenCache:
    """Tokens by identity, minted when they are due and by one caller of the host at a time.

    Which of three a token is decides what a lookup does. *Fresh*: it is served at once. *Stale*, that is within
    ``refresh_before`` of its end: one caller renews it while all others are served the old one, and where AWS fails, so
    are all. *Dead*, or absent: all wait, for a bounded time, for the one who mints.

    :param store: the host's layer; None: every process for itself
    :param refresh_before: seconds before its end at which a token is renewed
    :param process: the process's layer
    :param clock: seconds since the epoch
    :param kept_for: tells for how many seconds those who are served keep a token and use it
    """

    def __init__(
        self,
        store: HostStore | None,
        refresh_before: float,
        process: ProcessLayer = _process_layer,
        clock: Callable[[], float] = time.time,
        kept_for: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store = store
        self._refresh_before = refresh_before
        self._process = process
        self._clock = clock
        self._kept_for = kept_for

    def get(self, identity: AwsIdentity, mint: Callable[[], EcrToken]) -> Served:
        """Give a live token.

        :param identity: whose token
        :param mint: asks AWS for a new one; raises MintError
        :return: a token that is alive, and where it comes from
        :raises MintError: there is none, and AWS gives none or gave none just now
        """
        key = identity.key
        entry = self._process.get(key)
        if entry is not None and (fresh := entry.fresh(self._clock(), self._refresh_before, self._kept_for())):
            return fresh, "process_hit"
        entry = self._newest(key)
        settled = self._settled(entry)
        if settled is not None:
            return settled
        if old := entry.live(self._clock(), self._kept_for()):
            try:
                return self._renewed(identity, mint) or (old, "stale")
            except TimeoutError as error:
                reason = str(error)
            if entry.live(self._clock(), self._kept_for()):
                return self._in_vain(identity, entry, reason)
        try:
            return self._awaited(identity, mint)
        except TimeoutError as error:
            reason = str(error)
        return self._in_vain(identity, entry, reason)

    def _renewed(self, identity: AwsIdentity, mint: Callable[[], EcrToken]) -> Served | None:
        """Renew a token that still lives; None if somebody does so already."""

        def renew() -> Served | None:
            with self._host_turn(identity.key) as is_ours:
                return self._minted(identity, mint) if is_ours else None

        turn = self._process.turn(identity.key)
        return _in_background(renew, turn, RENEWAL_PATIENCE_SECONDS) if turn.acquire(blocking=False) else None

    def _awaited(self, identity: AwsIdentity, mint: Callable[[], EcrToken]) -> Served:
        """Wait for a token, and mint it when the turn is ours, or when whoever has the turn takes long."""
        key = identity.key

        def wait() -> Served:
            give_up_at = time.monotonic() + HOST_PATIENCE_SECONDS
            pause = FIRST_LOOK_SECONDS
            while True:
                with self._host_turn(key) as is_ours:
                    is_late = time.monotonic() >= give_up_at
                    if is_late:
                        self._complain("the process whose turn it is does not get on")
                    if is_late or is_ours:
                        return self._minted(identity, mint)
                time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
                settled = self._settled(self._newest(key))
                if settled is not None:
                    return settled

        turn = self._process.turn(key)
        patience_ends_at = time.monotonic() + LOOKUP_PATIENCE_SECONDS
        if not turn.acquire(timeout=LOOKUP_PATIENCE_SECONDS):
            raise too_late(LOOKUP_PATIENCE_SECONDS)
        return _in_background(wait, turn, patience_ends_at - time.monotonic())

    def _minted(self, identity: AwsIdentity, mint: Callable[[], EcrToken]) -> Served:
        """Mint, when whoever had the turn before has not done so, and let all know how it went."""
        entry = self._newest(identity.key)
        settled = self._settled(entry)
        if settled is not None:
            return settled
        try:
            token = mint()
        except MintError as error:
            failure = error.failure
        else:
            self._record(Entry(token, None, token.minted_at, uptime(), identity.key, str(identity)))
            return token, "mint"
        entry = entry.failed(failure, self._clock())
        self._record(entry)
        return self._despite(failure, entry)

    def _in_vain(self, identity: AwsIdentity, entry: Entry, reason: str) -> Served:
        """After waiting too long, serve what has come meanwhile; else see to it that nobody waits again so soon."""
        remedy = "Look for what hangs: the network, a name server or proxy, or a source of credentials."
        failure = MintFailure(str(identity), identity.region or "none", "TimedOut", reason, remedy)
        newest = self._newest(identity.key)
        if newest == entry:
            newest = entry.failed(failure, self._clock())
            self._record(newest)
        return self._settled(newest) or self._despite(failure, newest)

    def _settled(self, entry: Entry) -> Served | None:
        """Tell what an entry settles by itself.

        :return: its token if that is fresh, or if it lives and AWS failed just now; None: AWS is to be asked
        :raises MintError: AWS failed just now, and there is no live token
        """
        wall = self._clock()
        if fresh := entry.fresh(wall, self._refresh_before, self._kept_for()):
            return fresh, "host_hit"
        if entry.failure is not None and entry.pause_left(wall):
            return self._despite(entry.failure, entry)
        return None

    def _despite(self, failure: MintFailure, entry: Entry) -> Served:
        """Serve the old token while it lives, with a warning; there is no other while AWS is not to be asked."""
        wall = self._clock()
        token = entry.live(wall, self._kept_for())
        if token is None:
            raise MintError(failure)
        if self._process.may_say(f"stale {entry.key}", WARN_EVERY_SECONDS):
            left = token.expires_at - entry.now(wall)
            logger.warning("An ECR token was not renewed; the old one serves for %.0f s more. %s", left, failure)
        return token, "stale"

    def _newest(self, key: str) -> Entry:
        """Tell what is known by the process or by the host, whichever asked AWS last."""
        wall = self._clock()
        known, found = self._process.get(key), self._read(key)
        if found is None or (known is not None and known.age(wall) <= found.age(wall)):
            return known or Entry(key=key)
        self._process.put(key, found)
        return found

    def _read(self, key: str) -> Entry | None:
        if self._store is None:
            return None
        try:
            text = self._store.read(f"{key}.json")
        except OSError as error:
            self._complain(error.strerror)
            return None
        if text is None:
            return None
        entry = Entry.from_json(text)
        if entry is None or entry.key != key:
            self._complain("a file of the cache is damaged, or of another version")
            return None
        return entry

    def _record(self, entry: Entry) -> None:
        self._process.put(entry.key, entry)
        if self._store is not None:
            try:
                self._store.write(f"{entry.key}.json", entry.to_json())
            except OSError as error:
                self._complain(error.strerror)

    @contextmanager
    def _host_turn(self, key: str) -> Iterator[bool]:
        """Take the host's turn; where the store cannot be used, every process has its own."""
        with ExitStack() as stack:
            is_ours = True
            if self._store is not None:
                try:
                    is_ours = stack.enter_context(self._store.turn(key))
                except OSError as error:
                    self._complain(error.strerror)
            yield is_ours

    def _complain(self, cause: str | None) -> None:
        if self._process.may_say(f"store {cause}", math.inf):
            logger.warning(
                "The host's cache of ECR tokens (in %s) fails, so AWS is asked more often: %s. "
                "See what `ecr-secrets-backend status` tells this user, or set cache_dir to another folder.",
                self._store,
                cause,
            )


def _in_background(work: Callable[[], Result], turn: threading.Lock, patience: float) -> Result:
    """Do what may hang for a bounded time, and give up the turn when it has ended.

    boto3's timeouts do not bound a name server that is silent, nor a program that is to tell the credentials.

    :raises TimeoutError: it goes on
    """

    def run() -> Result:
        try:
            return work()
        finally:
            turn.release()

    return within(patience, run)


def _back_off(entry: Entry, wall: float) -> float:
    seconds = RENEWAL_BACK_OFF_SECONDS if entry.live(wall) else BACK_OFF_SECONDS
    return seconds if entry.token is None else min(seconds, entry.token.life * BACK_OFF_PART)

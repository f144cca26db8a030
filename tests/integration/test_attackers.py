"""Other users of the host, which can write where the cache is made: no forgery is served or written through."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.process_helpers import Host, check, delete_for_ever, get_tokens
from tests.requirements import need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

ROOT, VICTIM, ATTACKER = 0, 54321, 54322


def own(path: Path, user: int, mode: int) -> None:
    os.chown(path, user, user)
    path.chmod(mode)


def home(host: Host) -> Path:
    """A folder of the victim that others may enter. The file in it is private."""
    return host.cache_dir / "home"


def forgery(host: Host) -> Path:
    """A file of the attacker that would be served if it were the victim's."""
    return host.cache_dir / "den" / "forgery"


@pytest.fixture(params=[VICTIM, ROOT], ids=["user", "root"])
def host(
    request: pytest.FixtureRequest, aws: AwsStandIn, processes: Processes, shared_folder: Path, tmp_path: Path
) -> Iterator[Host]:
    """The victim's processes. At the end, the victim's private file and the attacker's forgery are as they were."""
    need_root()
    host = Host(aws, processes, shared_folder, request.param)
    private = home(host) / "private"
    get_tokens(host.identity, tmp_path, "forged")
    (entry,) = tmp_path.rglob("*.json")
    for path, user, mode, content in (
        (private, request.param, 0o600, b"private"),
        (forgery(host), ATTACKER, 0o666, entry.read_bytes()),
    ):
        path.parent.mkdir()
        path.write_bytes(content)
        own(path, user, mode)
        own(path.parent, user, 0o755)

    yield host

    assert private.read_text() == "private"
    assert b"forged" in forgery(host).read_bytes()
    assert [list(path.parent.iterdir()) for path in (private, forgery(host))] == [[private], [forgery(host)]]
    assert stat.S_IMODE(home(host).stat().st_mode) == 0o755


def assert_is_private(folder: Path, user: int | None) -> None:
    """Check that the cache is its user's, and that no other user may read or write it."""
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".lock"}
    for path in folder.iterdir():
        status = path.lstat()
        assert (status.st_mode, status.st_uid, status.st_nlink) == (stat.S_IFREG | 0o600, user, 1)


def test_the_forgery_is_perfect(host: Host) -> None:
    """It is served if the victim has written it, so no test below passes because of a flaw of the forgery."""
    host.look_up()
    host.entry.write_bytes(forgery(host).read_bytes())

    assert host.run().tokens == ["forged"]


def forge(path: Path, host: Host, mode: int) -> None:
    path.unlink(missing_ok=True)
    shutil.copyfile(forgery(host), path)
    path.chmod(mode)


def forge_folder(path: Path, host: Host, mode: int = 0o777) -> Path:
    path.mkdir(exist_ok=True)
    for name in (host.entry.name, host.lock.name):
        forge(path / name, host, 0o666)
    path.chmod(mode)
    return path


SQUATS: dict[str, Callable[[Host], object]] = {
    "an open folder": lambda host: forge_folder(host.folder, host),
    "a closed folder": lambda host: forge_folder(host.folder, host, 0o700),
    "a link to a forged folder": lambda host: host.folder.symlink_to(forge_folder(host.cache_dir / "forged", host)),
    "a link to the home": lambda host: host.folder.symlink_to(home(host)),
    "a link to nothing in the home": lambda host: host.folder.symlink_to(home(host) / "new"),
    "a file": lambda host: forge(host.folder, host, 0o666),
}


def squat(host: Host, how: str) -> None:
    SQUATS[how](host)


@pytest.mark.parametrize("how", SQUATS)
def test_an_attacker_that_makes_the_folder_first_gains_nothing(host: Host, default_place: Path, how: str) -> None:
    """A forged folder, file or link is refused, and a default place is used, with a warning.

    Also if the first default place is the attacker's, because ``su`` and ``sudo`` may keep XDG_RUNTIME_DIR.
    """
    host.processes.run(squat, host, how, user=ATTACKER)
    own(default_place, ATTACKER, 0o755)
    host.processes.run(forge_folder, default_place / host.folder.name, host, user=ATTACKER)
    place = host.cache_dir / "next"
    place.mkdir()
    own(place, ROOT, 0o1777)
    before = list_with_status(host.cache_dir, without=place), list_with_status(default_place)

    replaced = {"ecr_secrets_backend.host_store._SHARED_MEMORY": str(place)}
    first, second = (check(host.run(3, 0, replaced)) for _ in range(2))

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    assert len(first.warnings) == len(second.warnings) == 1
    assert (list_with_status(host.cache_dir, without=place), list_with_status(default_place)) == before
    assert_is_private(place / host.folder.name, host.user)


def list_with_status(folder: Path, without: Path | None = None) -> dict[Path, tuple[int, ...]]:
    """Return the status of each path below a folder, without the time of the last access."""
    paths = [path for path in folder.rglob("*") if without not in (path, *path.parents)]
    return {path: (*path.lstat()[:7], path.lstat().st_mtime_ns) for path in paths}


def link_to(target: Path, *paths: Path) -> None:
    for path in paths:
        path.unlink()
        path.symlink_to(target)


def replace_by_pipes(host: Host) -> None:
    for path in (host.entry, host.lock):
        path.unlink()
        os.mkfifo(path)
        os.write(os.open(path, os.O_RDWR), forgery(host).read_bytes())


def hold(path: Path) -> None:
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)


PLANTS: dict[str, list[Callable[[Host], object]]] = {
    "a forgery": [lambda host: forge(host.entry, host, 0o666)],
    "a private forgery": [lambda host: forge(host.entry, host, 0o600)],
    "a forgery in the victim's file": [lambda host: host.entry.write_bytes(forgery(host).read_bytes())],
    "a link to the forgery": [lambda host: link_to(forgery(host), host.entry)],
    "links to the private file": [lambda host: link_to(home(host) / "private", host.entry, host.lock)],
    "pipes": [replace_by_pipes],
    "the victim's lock, held": [lambda host: host.entry.unlink(), lambda host: hold(host.lock)],
    "a forged lock, held": [
        lambda host: host.entry.unlink(),
        lambda host: forge(host.lock, host, 0o666),
        lambda host: hold(host.lock),
    ],
}


def plant(host: Host, what: str) -> None:
    for step in PLANTS[what]:
        step(host)


@pytest.mark.parametrize("what", PLANTS)
def test_what_was_planted_while_the_folder_was_open_is_refused_and_replaced(host: Host, what: str) -> None:
    """The next process requests a token, closes the folder and its files, and its token serves the other processes."""
    host.look_up()
    for path in (host.entry, host.lock):
        path.chmod(0o666)
    host.folder.chmod(0o777)

    with host.processes.start(plant, host, what, user=ATTACKER) as attacker:
        attacker.result()
        first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert second.warnings == []
    assert_is_private(host.folder, host.user)


def test_an_entry_is_served_under_its_own_name_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker that may rename the victim's files cannot make one identity's token serve another identity."""
    first, entry = host.look_up(), host.entry
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHERIDENTITY1")
    host.look_up()
    host.folder.chmod(0o777)
    host.processes.run(os.replace, entry, host.entry, user=ATTACKER)

    assert host.look_up().tokens != first.tokens


def for_ever(*steps: Callable[[], object]) -> None:
    while True:
        for step in steps:
            with suppress(OSError):
                step()


def race_for_folder(host: Host) -> None:
    hows = ("an open folder", "a link to a forged folder", "a link to the home")
    clear = (host.folder.unlink, partial(shutil.rmtree, host.folder))
    for_ever(*(step for how in hows for step in (partial(squat, host, how), *clear)))


def race_by_swapping_folders(host: Host) -> None:
    folder, forged, away = host.folder, host.cache_dir / "forged", host.cache_dir / "away"
    for_ever(
        partial(forge_folder, forged, host),
        partial(folder.rename, away),
        partial(folder.symlink_to, home(host)),
        folder.unlink,
        partial(forged.rename, folder),
        partial(folder.rename, forged),
        partial(away.rename, folder),
    )


def race_in_folder(host: Host) -> None:
    plants = ("a forgery", "a link to the forgery", "links to the private file")
    for_ever(*(partial(plant, host, what) for what in plants), partial(forge, host.lock, host, 0o666))


def open_for_ever(folder: Path) -> None:
    for_ever(partial(folder.chmod, 0o777))


@pytest.mark.usefixtures("default_place")
@pytest.mark.parametrize(
    ("race", "help_attacker"),
    [
        (race_for_folder, delete_for_ever),
        (race_by_swapping_folders, delete_for_ever),
        (race_in_folder, open_for_ever),
    ],
)
def test_a_race_is_not_won_by_the_attacker(
    host: Host, race: Callable[[Host], None], help_attacker: Callable[[Path], None]
) -> None:
    """Not even while a process of the victim deletes the folder, or opens it to all users, without a pause."""
    if race is race_by_swapping_folders:
        own(host.cache_dir, ATTACKER, 0o777)
    arguments = (host.identity, host.cache_dir, "ours", 1.5)
    with (
        host.processes.start(race, host, user=ATTACKER),
        host.processes.start(help_attacker, host.folder, user=host.user),
        host.processes.start(get_tokens, *arguments, user=host.user) as first,
        host.processes.start(get_tokens, *arguments, user=host.user) as second,
    ):
        assert first.result() == second.result() == {"ours"}
    files = [path for path in host.cache_dir.glob("*/*") if not path.parent.is_symlink()]
    assert not [path for path in files if (path.lstat().st_uid, path.parent.stat().st_uid) == (host.user, ATTACKER)]


def test_nothing_in_the_cache_reveals_an_access_key(host: Host) -> None:
    """Neither a name nor the content, and no digest of the key alone, which an attacker could find in a list."""
    host.look_up()
    key, secret = (os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    digests = [hashlib.new(name, key.encode()).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")]

    text = "".join(f"{file}{file.read_text()}" for file in host.folder.iterdir()).lower()

    assert not [each for each in (key, secret, *digests) if each[:16].lower() in text]

"""Other users of the host, which can write where the cache is made: no forgery is served or written through."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import host_store
from tests.process_helpers import Host, check, delete_for_ever, get_token, get_tokens_for, look_up
from tests.requirements import need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process_helpers import Lookups, Processes
    from tests.stand_ins.aws import AwsStandIn

pytestmark = pytest.mark.usefixtures("default_place")

ROOT, VICTIM, ATTACKER = 0, 54321, 54322


@dataclass(frozen=True)
class Scene:
    """
    The paths that an attacker works with.

    :param folder: the victim's cache, or the place where it will be
    :param key: the name of the victim's entry and lock
    :param home: a folder of the victim that others may enter
    :param private: a file in it that no other user may read
    :param den: the attacker's folder
    :param forgery: a file in it that would be served if it were the victim's
    """

    folder: Path
    key: str
    home: Path
    private: Path
    den: Path
    forgery: Path

    @property
    def entry(self) -> Path:
        return self.folder / f"{self.key}.json"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"


def own(path: Path, user: int, mode: int) -> None:
    os.chown(path, user, user)
    path.chmod(mode)


@pytest.fixture(params=[VICTIM, ROOT], ids=["user", "root"])
def host(request: pytest.FixtureRequest, aws: AwsStandIn, processes: Processes, shared_folder: Path) -> Host:
    """The victim's processes."""
    need_root()
    return Host(aws, processes, shared_folder, request.param)


@pytest.fixture
def scene(host: Host, tmp_path: Path) -> Iterator[Scene]:
    """Check at the end that the victim's private file and the attacker's forgery are as they were."""
    assert host.user is not None
    get_token(host.identity, tmp_path, "forged")
    (forgery,) = tmp_path.rglob("*.json")
    home, den = host.cache_dir / "home", host.cache_dir / "den"
    scene = Scene(host.folder, host.identity.key, home, home / "private", den, den / "forgery")
    home.mkdir()
    den.mkdir()
    scene.private.write_text("private")
    shutil.copy(forgery, scene.forgery)
    own(home, host.user, 0o755)
    own(den, ATTACKER, 0o777)
    own(scene.private, host.user, 0o600)
    own(scene.forgery, ATTACKER, 0o666)

    yield scene

    assert scene.private.read_text() == "private"
    assert b"forged" in scene.forgery.read_bytes()
    for folder, mode in ((home, 0o755), (den, 0o777)):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
        assert len(list(folder.iterdir())) == 1


def assert_is_private(folder: Path, user: int | None) -> None:
    """Check that the cache is its user's, and that no other user may read or write it."""
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".lock"}
    for path in folder.iterdir():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink) == (0o600, user, 1)


def test_the_forgery_is_perfect(host: Host, scene: Scene) -> None:
    """It is served if the victim has written it, so no test below passes because of a flaw of the forgery."""
    host.look_up()
    scene.entry.write_bytes(scene.forgery.read_bytes())

    assert host.run().tokens == ["forged"]


def forge_folder(path: Path, scene: Scene, mode: int) -> Path:
    path.mkdir(exist_ok=True)
    shutil.copy(scene.forgery, path / scene.entry.name)
    (path / scene.lock.name).touch()
    path.chmod(mode)
    return path


SQUATS: dict[str, Callable[[Scene], object]] = {
    "an open folder": lambda scene: forge_folder(scene.folder, scene, 0o777),
    "a readable folder": lambda scene: forge_folder(scene.folder, scene, 0o755),
    "a closed folder": lambda scene: forge_folder(scene.folder, scene, 0o700),
    "a link to a forged folder": lambda scene: scene.folder.symlink_to(
        forge_folder(scene.folder.with_name("elsewhere"), scene, 0o777)
    ),
    "a link to the den": lambda scene: scene.folder.symlink_to(scene.den),
    "a link to the home": lambda scene: scene.folder.symlink_to(scene.home),
    "a link to nothing in the home": lambda scene: scene.folder.symlink_to(scene.home / "new"),
    "a file": lambda scene: shutil.copy(scene.forgery, scene.folder),
    "a pipe": lambda scene: os.mkfifo(scene.folder),
}


def squat(scene: Scene, how: str) -> None:
    SQUATS[how](scene)


@pytest.mark.parametrize("how", SQUATS)
def test_an_attacker_that_makes_the_folder_first_gains_nothing(
    host: Host, scene: Scene, default_place: Path, how: str
) -> None:
    """A forged folder, file or link is refused, and a default place is used, with a warning."""
    host.processes.run(squat, scene, how, user=ATTACKER, umask=0)
    before = list_with_status(host.cache_dir)

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    assert len(first.warnings) == len(second.warnings) == 1
    assert list_with_status(host.cache_dir) == before
    assert_is_private(default_place / scene.folder.name, host.user)


def list_with_status(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Return the status of each path below a folder, without the time of the last access."""
    paths = [Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {path: (*path.lstat()[:7], path.lstat().st_mtime_ns) for path in paths}


def replace_by_forgery(scene: Scene, mode: int | None = None) -> None:
    scene.entry.unlink()
    shutil.copy(scene.forgery, scene.entry)
    if mode is not None:
        scene.entry.chmod(mode)


def write_forgery_into_entry(scene: Scene) -> None:
    scene.entry.write_bytes(scene.forgery.read_bytes())


def link_entry_to_forgery(scene: Scene) -> None:
    scene.entry.unlink()
    scene.entry.symlink_to(scene.forgery)


def link_both_to(target: Path, scene: Scene) -> None:
    for path in (scene.entry, scene.lock):
        path.unlink()
        path.symlink_to(target)


def plant_pipes(scene: Scene) -> list[int]:
    descriptors = []
    for path in (scene.entry, scene.lock):
        path.unlink()
        os.mkfifo(path)
        descriptors.append(os.open(path, os.O_RDWR))
        os.write(descriptors[-1], scene.forgery.read_bytes())
    return descriptors


def plant_empty_folders(scene: Scene) -> None:
    for path in (scene.entry, scene.lock):
        path.unlink()
        path.mkdir()


def plant_temporary_files(scene: Scene) -> None:
    scene.entry.unlink()
    scene.folder.joinpath(f"{scene.entry.name}.0.tmp").symlink_to(scene.private)
    os.mkfifo(scene.folder / f"{scene.entry.name}.1.tmp")
    scene.folder.joinpath(f"{scene.entry.name}.2.tmp").mkdir()
    shutil.copy(scene.forgery, scene.folder / f"{scene.entry.name}.3.tmp")


def hold_lock(scene: Scene, mode: int | None = None) -> list[int]:
    """Hold the victim's lock file, or with a mode one of the attacker in its place."""
    scene.entry.unlink(missing_ok=True)
    if mode is not None:
        scene.lock.unlink()
        scene.lock.touch()
    descriptor = os.open(scene.lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if mode is not None:
        scene.lock.chmod(mode)
    return [descriptor]


PLANTS: dict[str, Callable[[Scene], list[int] | None]] = {
    "a forgery": replace_by_forgery,
    "a private forgery": lambda scene: replace_by_forgery(scene, 0o600),
    "a forgery in the victim's file": write_forgery_into_entry,
    "a link to the forgery": link_entry_to_forgery,
    "links to the private file": lambda scene: link_both_to(scene.private, scene),
    "links to nothing in the home": lambda scene: link_both_to(scene.home / "new", scene),
    "pipes": plant_pipes,
    "empty folders": plant_empty_folders,
    "temporary files": plant_temporary_files,
    "the victim's lock": hold_lock,
    "an open lock": lambda scene: hold_lock(scene, 0o666),
    "a closed lock": lambda scene: hold_lock(scene, 0o600),
}


def plant(scene: Scene, what: str) -> list[int] | None:
    return PLANTS[what](scene)


@pytest.mark.parametrize("what", PLANTS)
def test_what_was_planted_while_the_folder_was_open_is_refused_and_replaced(
    host: Host, scene: Scene, what: str
) -> None:
    """The next process requests a token, closes the folder and its files, and its token serves the other processes."""
    host.look_up()
    open_to_all(scene)

    with host.processes.start(plant, scene, what, user=ATTACKER, umask=0) as attacker:
        attacker.result()
        first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert second.warnings == []
    assert_is_private(scene.folder, host.user)


def open_to_all(scene: Scene) -> None:
    scene.folder.chmod(0o777)
    for path in scene.folder.iterdir():
        path.chmod(0o666)


def test_an_entry_is_served_under_its_own_name_alone(host: Host, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker that may rename the victim's files cannot make one identity's token serve another identity."""
    first, entry = host.look_up(), host.entry
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHERIDENTITY1")
    host.look_up()
    scene.folder.chmod(0o777)
    host.processes.run(os.replace, entry, host.entry, user=ATTACKER)

    assert host.look_up().tokens != first.tokens


def race_for_folder(scene: Scene) -> None:
    while True:
        for how in ("an open folder", "a link to a forged folder", "a link to the home"):
            with suppress(OSError):
                squat(scene, how)
            with suppress(OSError):
                scene.folder.unlink()
            shutil.rmtree(scene.folder, ignore_errors=True)


def race_by_swapping_folders(scene: Scene) -> None:
    folder, forged, away = scene.folder, scene.folder.with_name("forged"), scene.folder.with_name("away")
    while True:
        with suppress(OSError):
            forge_folder(forged, scene, 0o777)
        with suppress(OSError):
            folder.rename(away)
        with suppress(OSError):
            folder.symlink_to(scene.home)
        with suppress(OSError):
            folder.unlink()
        for source, target in ((forged, folder), (folder, forged), (away, folder)):
            with suppress(OSError):
                source.rename(target)


def race_in_folder(scene: Scene) -> None:
    while True:
        for what in ("a forgery", "a link to the forgery", "links to the private file", "an open lock"):
            with suppress(OSError):
                for descriptor in plant(scene, what) or ():
                    os.close(descriptor)


def open_for_ever(folder: Path) -> None:
    while True:
        with suppress(OSError):
            folder.chmod(0o777)


@pytest.mark.parametrize(
    ("race", "help_attacker"),
    [
        (race_for_folder, delete_for_ever),
        (race_by_swapping_folders, delete_for_ever),
        (race_in_folder, open_for_ever),
    ],
)
def test_a_race_is_not_won_by_the_attacker(
    host: Host, scene: Scene, race: Callable[[Scene], None], help_attacker: Callable[[Path], None]
) -> None:
    """Not even while a process of the victim deletes the folder, or opens it to all users, without a pause."""
    if race is race_by_swapping_folders:
        own(host.cache_dir, ATTACKER, 0o777)
    arguments = (1.5, host.identity, host.cache_dir, "ours")
    with (
        host.processes.start(race, scene, user=ATTACKER, umask=0),
        host.processes.start(help_attacker, scene.folder, user=host.user),
        host.processes.start(get_tokens_for, *arguments, user=host.user) as first,
        host.processes.start(get_tokens_for, *arguments, user=host.user) as second,
    ):
        assert first.result() == second.result() == {"ours"}
    files = [path for path in host.cache_dir.glob("*/*") if not path.parent.is_symlink()]
    assert not [path for path in files if (path.lstat().st_uid, path.parent.stat().st_uid) == (host.user, ATTACKER)]


@dataclass(frozen=True)
class Places:
    """Three folders that replace the default places of the cache."""

    runtime: Path
    memory: Path
    temporary: Path


@pytest.fixture
def places(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    places = Places(shared_folder / "run", shared_folder / "shm", shared_folder / "tmp")
    for place in (places.memory, places.temporary):
        place.mkdir()
        place.chmod(0o1777)
    for variable in ("XDG_RUNTIME_DIR", "TEMP", "TMP"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TMPDIR", str(places.temporary))
    return places


def look_up_in_default_place(places: Places, kwargs: dict[str, Any], *arguments: Any) -> Lookups:
    host_store._SHARED_MEMORY = str(places.memory)  # type: ignore[misc]
    host_store._TEMP_FOLDERS = ()  # type: ignore[assignment, misc]
    return look_up({name: value for name, value in kwargs.items() if name != "cache_dir"}, *arguments)


def look_up_thrice(host: Host, places: Places) -> Lookups:
    arguments = (places, host.kwargs, host.aws, 3)
    return check(host.processes.run(look_up_in_default_place, *arguments, user=host.user))


def squat_in(place: Path, scene: Scene) -> None:
    squat(replace(scene, folder=place / scene.folder.name), "an open folder")


@pytest.mark.parametrize(("squatted", "has_cache"), [(["memory"], True), (["memory", "temporary"], False)])
def test_an_attacker_that_is_first_in_a_default_place_does_not_keep_the_victim_from_the_next(
    host: Host, scene: Scene, places: Places, squatted: list[str], has_cache: bool
) -> None:
    """If it is first in all places, each process requests one token, and logs one warning."""
    for place in squatted:
        host.processes.run(squat_in, getattr(places, place), scene, user=ATTACKER, umask=0)

    processes = [look_up_thrice(host, places) for _ in range(2)]

    assert [len(process.warnings) for process in processes] == [not has_cache] * 2
    assert host.token_requests == (1 if has_cache else 2)
    if has_cache:
        assert_is_private(places.temporary / scene.folder.name, host.user)


@pytest.mark.parametrize("is_squatted", [True, False])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_the_owner_of_the_runtime_folder_gains_nothing(
    host: Host, scene: Scene, places: Places, monkeypatch: pytest.MonkeyPatch, mode: int, is_squatted: bool
) -> None:
    """``su`` and ``sudo`` may keep the XDG_RUNTIME_DIR of another user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places.runtime))
    places.runtime.mkdir()
    own(places.runtime, ATTACKER, mode)
    if is_squatted:
        host.processes.run(squat_in, places.runtime, scene, user=ATTACKER, umask=0)

    assert [look_up_thrice(host, places).warnings for _ in range(2)] == [[], []]
    assert host.token_requests == 1


def test_nothing_in_the_cache_reveals_an_access_key(host: Host) -> None:
    """Neither a name nor the content, and no digest of the key alone, which an attacker could find in a list."""
    host.look_up()
    key, secret = (os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    digests = [
        hashlib.new(name, key.encode(), usedforsecurity=False).hexdigest()
        for name in ("md5", "sha1", "sha256", "sha512")
    ]

    text = "".join(f"{file}{file.read_text()}" for file in host.folder.iterdir()).lower()

    assert not [each for each in (key, secret, *digests) if each[:16].lower() in text]

"""Other users of the host, who may write where the cache is made: nothing of theirs is served, or written through."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ecr_secrets_backend
from ecr_secrets_backend import host_store
from tests.process_helpers import Host, Lookups, delete_for_ever, get_token, get_tokens_for, look_up
from tests.requirements import need_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

pytestmark = pytest.mark.usefixtures("default_place")

ROOT, VICTIM, ATTACKER = 0, 54321, 54322
PACKAGE = Path(ecr_secrets_backend.__file__).parent


@dataclass(frozen=True)
class Scene:
    """
    What an attacker works with.

    :param folder: where the victim's cache is, or will be
    :param key: what the victim's entry, and its lock, is named by
    :param home: the victim's, which others may enter
    :param diary: a file in it that nobody else may read
    :param den: the attacker's folder
    :param forgery: a file in it that would be served if it were the victim's
    """

    folder: Path
    key: str
    home: Path
    diary: Path
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
    """The victim's."""
    need_root()
    return Host(aws, processes, shared_folder, request.param)


@pytest.fixture
def scene(host: Host, tmp_path: Path) -> Iterator[Scene]:
    """Whatever is done in it, what is the victim's alone stays as it was, and so does the attacker's."""
    assert host.user is not None
    get_token(host.identity, tmp_path, "forged")
    (forgery,) = tmp_path.rglob("*.json")
    home, den = host.cache_dir / "home", host.cache_dir / "den"
    scene = Scene(host.folder, host.identity.key, home, home / "diary", den, den / "forgery")
    home.mkdir()
    den.mkdir()
    scene.diary.write_text("dear diary")
    shutil.copy(forgery, scene.forgery)
    own(home, host.user, 0o755)
    own(den, ATTACKER, 0o777)
    own(scene.diary, host.user, 0o600)
    own(scene.forgery, ATTACKER, 0o666)

    yield scene

    assert scene.diary.read_text() == "dear diary"
    assert b"forged" in scene.forgery.read_bytes()
    for folder, mode in ((home, 0o755), (den, 0o777)):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
        assert len(list(folder.iterdir())) == 1


def assert_is_private(folder: Path, user: int | None) -> None:
    """See that the cache is its user's, and nobody else may read or write it."""
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".lock"}
    for path in folder.iterdir():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink) == (0o600, user, 1)


def test_the_forgery_is_perfect(host: Host, scene: Scene) -> None:
    """It is served where the victim has written it, so what refuses it below is not some flaw of its own."""
    host.look_up()
    scene.entry.write_bytes(scene.forgery.read_bytes())

    assert host.processes.run(look_up, host.kwargs, user=host.user).tokens == ("forged",)


def forged_folder(path: Path, scene: Scene, mode: int) -> None:
    path.mkdir(exist_ok=True)
    shutil.copy(scene.forgery, path / scene.entry.name)
    (path / scene.lock.name).touch()
    path.chmod(mode)


def squat_by_open_folder(scene: Scene) -> None:
    forged_folder(scene.folder, scene, 0o777)


def squat_by_readable_folder(scene: Scene) -> None:
    forged_folder(scene.folder, scene, 0o755)


def squat_by_closed_folder(scene: Scene) -> None:
    forged_folder(scene.folder, scene, 0o700)


def squat_by_link_to_forged_folder(scene: Scene) -> None:
    elsewhere = scene.folder.with_name("elsewhere")
    forged_folder(elsewhere, scene, 0o777)
    scene.folder.symlink_to(elsewhere)


def squat_by_link_to_den(scene: Scene) -> None:
    scene.folder.symlink_to(scene.den)


def squat_by_link_to_home(scene: Scene) -> None:
    scene.folder.symlink_to(scene.home)


def squat_by_link_to_nothing_at_home(scene: Scene) -> None:
    scene.folder.symlink_to(scene.home / "new")


def squat_by_file(scene: Scene) -> None:
    shutil.copy(scene.forgery, scene.folder)


def squat_by_pipe(scene: Scene) -> None:
    os.mkfifo(scene.folder)


@pytest.mark.parametrize(
    "squat",
    [
        squat_by_open_folder,
        squat_by_readable_folder,
        squat_by_closed_folder,
        squat_by_link_to_forged_folder,
        squat_by_link_to_den,
        squat_by_link_to_home,
        squat_by_link_to_nothing_at_home,
        squat_by_file,
        squat_by_pipe,
    ],
)
def test_who_is_there_first_gains_nothing(
    host: Host, scene: Scene, default_place: Path, squat: Callable[[Scene], None]
) -> None:
    """What stands in the place of the cache's folder is refused: a default place is used, with a warning."""
    host.processes.run(squat, scene, user=ATTACKER, umask=0)
    before = picture(host.cache_dir)

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    assert len(first.warnings) == len(second.warnings) == 1
    assert picture(host.cache_dir) == before
    assert_is_private(default_place / scene.folder.name, host.user)


def picture(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Tell all that could be changed in a folder and below."""
    paths = [Path(top) / name for top, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {path: (*path.lstat()[:7], path.lstat().st_mtime_ns) for path in paths}


def replace_by_forgery(scene: Scene) -> None:
    scene.entry.unlink()
    shutil.copy(scene.forgery, scene.entry)


def replace_by_private_forgery(scene: Scene) -> None:
    replace_by_forgery(scene)
    scene.entry.chmod(0o600)


def write_forgery_into_file(scene: Scene) -> None:
    scene.entry.write_bytes(scene.forgery.read_bytes())


def link_to_forgery(scene: Scene) -> None:
    scene.entry.unlink()
    scene.entry.symlink_to(scene.forgery)


def link_to_diary(scene: Scene) -> None:
    for path in (scene.entry, scene.lock):
        path.unlink()
        path.symlink_to(scene.diary)


def link_to_nothing_at_home(scene: Scene) -> None:
    for path in (scene.entry, scene.lock):
        path.unlink()
        path.symlink_to(scene.home / "new")


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


def plant_temporary_things(scene: Scene) -> None:
    scene.entry.unlink()
    scene.folder.joinpath(f"{scene.entry.name}.0.tmp").symlink_to(scene.diary)
    os.mkfifo(scene.folder / f"{scene.entry.name}.1.tmp")
    scene.folder.joinpath(f"{scene.entry.name}.2.tmp").mkdir()
    shutil.copy(scene.forgery, scene.folder / f"{scene.entry.name}.3.tmp")


def hold_lock_of_victim(scene: Scene) -> list[int]:
    scene.entry.unlink()
    descriptor = os.open(scene.lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return [descriptor]


def hold_lock_of_attacker(scene: Scene) -> list[int]:
    scene.lock.unlink()
    scene.lock.touch()
    return hold_lock_of_victim(scene)


def hold_closed_lock_of_attacker(scene: Scene) -> list[int]:
    descriptors = hold_lock_of_attacker(scene)
    scene.lock.chmod(0o600)
    return descriptors


@pytest.mark.parametrize(
    "plant",
    [
        replace_by_forgery,
        replace_by_private_forgery,
        write_forgery_into_file,
        link_to_forgery,
        link_to_diary,
        link_to_nothing_at_home,
        plant_pipes,
        plant_empty_folders,
        plant_temporary_things,
        hold_lock_of_victim,
        hold_lock_of_attacker,
        hold_closed_lock_of_attacker,
    ],
)
def test_what_was_planted_while_the_folder_was_open_is_refused_and_replaced(
    host: Host, scene: Scene, plant: Callable[[Scene], object]
) -> None:
    """Somebody had opened all to the world: the next process mints, closes it, and serves those that follow."""
    host.look_up()
    open_to_the_world(scene)

    with host.processes.start(plant, scene, user=ATTACKER, umask=0) as attacker:
        attacker.result()
        first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert second.warnings == ()
    assert_is_private(scene.folder, host.user)


def open_to_the_world(scene: Scene) -> None:
    scene.folder.chmod(0o777)
    for path in scene.folder.iterdir():
        path.chmod(0o666)


def plant_full_folder(scene: Scene) -> None:
    scene.entry.unlink()
    scene.entry.mkdir()
    shutil.copy(scene.forgery, scene.entry)


def test_a_planted_folder_that_holds_something_disables_the_cache_and_no_more(host: Host, scene: Scene) -> None:
    """Each process mints once, and gives each reason once."""
    host.look_up()
    open_to_the_world(scene)
    host.processes.run(plant_full_folder, scene, user=ATTACKER, umask=0)

    for token_requests in (2, 3):
        warnings = host.look_up(times=3).warnings
        assert 1 <= len(warnings) == len(set(warnings))
        assert host.token_requests == token_requests


def test_a_second_name_of_a_file_of_the_victims_own_is_refused(host: Host, scene: Scene) -> None:
    """Its content may be somebody else's, as that of a mail is; many a kernel lets everybody link to it."""
    host.look_up()
    scene.diary.write_bytes(scene.forgery.read_bytes())
    scene.entry.unlink()
    scene.entry.hardlink_to(scene.diary)

    lookups = host.look_up()

    assert host.token_requests == 2
    assert len(lookups.warnings) == 1
    assert b"forged" in scene.diary.read_bytes()
    scene.diary.write_text("dear diary")


def test_an_entry_is_served_under_its_own_name_alone(host: Host, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may rename the victim's files does not make the token of one identity serve as that of another."""
    first = host.look_up()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHERIDENTITY1")
        host.look_up()
        other_entry = host.entry
    scene.folder.chmod(0o777)
    host.processes.run(os.replace, scene.entry, other_entry, user=ATTACKER)

    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHERIDENTITY1")
        assert host.look_up().tokens != first.tokens


def race_for_folder(scene: Scene) -> None:
    while True:
        for squat in (squat_by_open_folder, squat_by_link_to_forged_folder, squat_by_link_to_home):
            with suppress(OSError):
                squat(scene)
            with suppress(OSError):
                scene.folder.unlink()
            shutil.rmtree(scene.folder, ignore_errors=True)


def race_by_swapping_folders(scene: Scene) -> None:
    folder, forged, away = scene.folder, scene.folder.with_name("forged"), scene.folder.with_name("away")
    while True:
        with suppress(OSError):
            forged_folder(forged, scene, 0o777)
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
        for plant in (replace_by_forgery, link_to_forgery, link_to_diary, hold_lock_of_attacker):
            with suppress(OSError):
                for descriptor in plant(scene) or ():
                    os.close(descriptor)


def open_for_ever(folder: Path) -> None:
    while True:
        with suppress(OSError):
            folder.chmod(0o777)


@pytest.mark.parametrize(
    ("race", "friend"),
    [
        (race_for_folder, delete_for_ever),
        (race_by_swapping_folders, delete_for_ever),
        (race_in_folder, open_for_ever),
    ],
)
def test_a_race_is_not_won_by_the_attacker(
    host: Host, scene: Scene, race: Callable[[Scene], None], friend: Callable[[Path], None]
) -> None:
    """Though the victim itself deletes its folder, or opens it to the world, again and again."""
    if race is race_by_swapping_folders:
        own(host.cache_dir, ATTACKER, 0o777)
    arguments = (1.5, host.identity, host.cache_dir, "ours")
    with (
        host.processes.start(race, scene, user=ATTACKER, umask=0),
        host.processes.start(friend, scene.folder, user=host.user),
        host.processes.start(get_tokens_for, *arguments, user=host.user) as first,
        host.processes.start(get_tokens_for, *arguments, user=host.user) as second,
    ):
        assert first.result() == second.result() == {"ours"}
    things = [path for path in host.cache_dir.glob("*/*") if not path.parent.is_symlink()]
    assert not [path for path in things if (path.lstat().st_uid, path.parent.stat().st_uid) == (host.user, ATTACKER)]


def move_away_and_squat(scene: Scene) -> None:
    scene.folder.rename(scene.folder.with_name("away"))
    squat_by_open_folder(scene)


def test_the_owner_of_the_parent_gains_nothing(host: Host, scene: Scene) -> None:
    """One who may rename the victim's folder can take the cache from it, and no more."""
    own(host.cache_dir, ATTACKER, 0o777)
    host.look_up()
    host.processes.run(move_away_and_squat, scene, user=ATTACKER, umask=0)

    assert len(host.look_up(times=3).warnings) == 1
    assert host.token_requests == 2


@dataclass(frozen=True)
class Places:
    """Where the cache may live by default: three folders that stand for the usual ones."""

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


def look_up_by_default(places: Places, kwargs: dict[str, Any], times: int) -> Lookups:
    host_store._SHARED_MEMORY = str(places.memory)  # type: ignore[misc]
    host_store._TEMP_FOLDERS = ()  # type: ignore[assignment, misc]
    return look_up({name: value for name, value in kwargs.items() if name != "cache_dir"}, times)


def squat_at(place: Path, scene: Scene) -> None:
    squat_by_open_folder(replace(scene, folder=place / scene.folder.name))


def test_who_is_first_in_one_place_does_not_keep_the_victim_from_the_next(
    host: Host, scene: Scene, places: Places
) -> None:
    """The cache lives in the first place that can be trusted."""
    host.processes.run(squat_at, places.memory, scene, user=ATTACKER, umask=0)

    lookups = [host.judge(host.processes.run(look_up_by_default, places, host.kwargs, 3, user=host.user)) for _ in "12"]

    assert host.token_requests == 1
    assert [process.warnings for process in lookups] == [(), ()]
    assert_is_private(places.temporary / scene.folder.name, host.user)


def test_who_is_first_in_all_places_gains_nothing(host: Host, scene: Scene, places: Places) -> None:
    """Each process mints once, and says so once."""
    for place in (places.memory, places.temporary):
        host.processes.run(squat_at, place, scene, user=ATTACKER, umask=0)

    for token_requests in (1, 2):
        lookups = host.judge(host.processes.run(look_up_by_default, places, host.kwargs, 3, user=host.user))
        assert len(lookups.warnings) == 1
        assert host.token_requests == token_requests


@pytest.mark.parametrize("is_squatted", [True, False])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_the_runtime_folder_of_another_user_gains_that_user_nothing(
    host: Host, scene: Scene, places: Places, monkeypatch: pytest.MonkeyPatch, mode: int, is_squatted: bool
) -> None:
    """``su`` and ``sudo`` may leave XDG_RUNTIME_DIR as it was."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places.runtime))
    places.runtime.mkdir()
    own(places.runtime, ATTACKER, mode)
    if is_squatted:
        host.processes.run(squat_at, places.runtime, scene, user=ATTACKER, umask=0)

    lookups = [host.judge(host.processes.run(look_up_by_default, places, host.kwargs, 3, user=host.user)) for _ in "12"]

    assert host.token_requests == 1
    assert [process.warnings for process in lookups] == [(), ()]


def test_two_users_share_a_parent_without_disturbing_each_other(host: Host) -> None:
    """Each has a folder and a token, though both use the same access key."""
    other = replace(host, user=ATTACKER)
    with ExitStack() as stack:
        both = [
            stack.enter_context(host.processes.start(look_up, user.kwargs, 3, user=user.user)) for user in (host, other)
        ]
        lookups = [host.judge(process.result()) for process in both]

    assert [host.look_up().tokens[0], other.look_up().tokens[0]] == [process.tokens[0] for process in lookups]
    assert host.token_requests == 2
    for user in (host, other):
        assert_is_private(user.folder, user.user)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_all_that_is_made_is_for_its_user_alone(host: Host, umask: int) -> None:
    """Whatever the umask: the cache, and the folders above it."""
    host = replace(host, cache_dir=host.cache_dir / "new" / "newer")

    host.look_up(umask=umask)

    assert_is_private(host.folder, host.user)
    for folder in (host.cache_dir, host.cache_dir.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_in_the_cache_tells_an_access_key(host: Host) -> None:
    """Neither the names nor the content, nor by a digest of the key alone, which could be looked up in a list."""
    host.look_up()
    access_key_id, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    digests = {
        hashlib.new(algorithm, access_key_id.encode(), usedforsecurity=False).hexdigest()[:16]
        for algorithm in ("md5", "sha1", "sha256", "sha512")
    }

    (folder,) = host.cache_dir.iterdir()
    told = "".join([str(folder), *(str(file) + file.read_text() for file in folder.iterdir())]).lower()

    assert not [telling for telling in {access_key_id, secret, *digests} if telling.lower() in told]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_in_the_package_executes_what_it_reads(file: Path) -> None:
    """No pickle, no eval, and nothing else that makes code of data."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}

    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code"}
    assert not names & {"eval", "exec", "compile", "__import__"}

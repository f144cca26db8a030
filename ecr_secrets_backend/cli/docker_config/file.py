"""Docker's ``config.json``: see which login Docker's clients use, and change logins, leaving all else as it was."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import re
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.command import FAILED, WRONG_USAGE, CommandError
from ecr_secrets_backend.cli.docker_config.paths import open_folder_of
from ecr_secrets_backend.private_files import Descriptor, UnsafeFileError

FILE_NAME: Final = "config.json"
#: Docker's own has a few kB; what is larger is not read.
LARGEST_FILE_BYTES: Final = 1024 * 1024
#: The holder of the lock reads and writes one small file.
LOCK_TIMEOUT_SECONDS: Final = 10.0
#: How often a change is tried while other programs change the file. Each try takes milliseconds.
_TRIES: Final = 20
#: Held while a file is being written, so that a process that ends leaves no half of one.
WRITING: Final = threading.Lock()
#: Stands before each number, which is kept as it is written: Python would change 1e400, and refuses 5,000 digits.
_NUMBER: Final = f"{secrets.token_hex(8)}:"
#: The keys that are used here, with what they hold.
_SHAPES: Final[Mapping[str, type]] = {"auths": dict, "credHelpers": dict, "credsStore": str}


def default_folder() -> Path:
    """Return where Docker's clients look for their configuration.

    :raises CommandError: this user has no home
    """
    try:
        return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    except RuntimeError:
        raise CommandError("This user has no home folder", "Set HOME or DOCKER_CONFIG, or use --config.") from None


def encoded(username: str, password: str) -> str:
    """Return a login as ``auths`` holds it."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True)
class DockerConfig:
    """The content of a ``config.json``.

    :param text: as it was found; None: there is no file
    """

    path: Path
    text: str | None
    content: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> DockerConfig:
        """Read the file of a folder.

        :raises CommandError: it cannot be read, or is not what Docker writes
        """
        path = _path_in(folder)
        with _failing(path, "read", WRONG_USAGE):
            try:
                return _load(path, *open_folder_of(str(path)))[0]
            except (FileNotFoundError, NotADirectoryError):  # no folder
                return cls(path, None, {})

    @property
    def auths(self) -> Mapping[str, Any]:
        """The logins in the file itself, by the name that they were given."""
        return self.content.get("auths") or {}

    def helper(self, host: str) -> tuple[str, str] | None:
        """Return the credential helper that is asked for a host before ``auths``.

        docker-py asks it, and uses ``auths`` if it has no login. The command ``docker`` uses it alone, unless
        :meth:`is_exempt`.

        :return: the key that names the helper, and the helper's name
        """
        if helper := (self.content.get("credHelpers") or {}).get(host):
            return f'credHelpers["{host}"]', helper
        store = self.content.get("credsStore")
        return ("credsStore", store) if store else None

    def is_exempt(self, host: str) -> bool:
        """Return whether the command ``docker`` asks no helper for a host, because it has an empty one."""
        return not (self.content.get("credHelpers") or {}).get(host, "none")

    def login(self, name: str) -> tuple[str, str] | None:
        """Return the user name and password that are under a name."""
        try:
            login = base64.b64decode(self.auths[name]["auth"], validate=True)
            username, colon, password = login.decode().partition(":")
        except (TypeError, KeyError, ValueError):
            return None
        return (username, password.rstrip("\0")) if colon else None

    def names(self, host: str) -> list[str]:
        """List the names of the logins for a host: the host, or a URL with it."""
        return [name for name in self.auths if re.sub(r"^\w+://", "", name).partition("/")[0] == host]

    def winning_name(self, host: str) -> str | None:
        """Return the name of the entry that Docker's clients use for a host, whether it holds a login or not.

        Of several URLs, docker-py uses the first, and the command ``docker`` any.
        """
        return host if host in self.auths else next(iter(self.names(host)), None)

    def with_logins(self, logins: Mapping[str, str], forget: Mapping[str, str]) -> dict[str, Any]:
        """Return the content after :func:`change_logins`."""
        others = {name for host in logins for name in self.names(host) if name != host}
        others |= {host for host, auth in forget.items() if self.auths.get(host) == {"auth": auth}}
        auths = {name: entry for name, entry in self.auths.items() if name not in others}
        return {**self.content, "auths": {**auths, **{host: {"auth": auth} for host, auth in logins.items()}}}

    def render(self, content: object) -> bytes:
        """Return another content as the bytes of a file that looks like this one."""
        text = self.text or ""
        found = re.match(r"\s*\{\s*?\n([ \t]+)", text)
        written = json.dumps(content, indent=found[1] if found else "\t", ensure_ascii=False)
        written = re.sub(f'"{_NUMBER}([^"]*)"', r"\1", written) + ("\n" if text.endswith("\n") else "")
        return written.encode(errors="backslashreplace")  # half of a surrogate pair is valid JSON as an escape alone


def change_logins(
    folder: Path, logins: Mapping[str, str], forget: Mapping[str, str], *, in_place: bool = False
) -> set[str]:
    """Set and forget logins in a folder's file, as a whole, and keep what others change at the same time.

    :param logins: those to set: what :func:`encoded` returns, by host; the host's other names are removed
    :param forget: those to forget, unless there is another by now
    :param in_place: write into the file, which a reader may then see in part, and do not replace it
    :return: the hosts whose entries were changed
    :raises CommandError: the file or its folder cannot be used; it is left as it was
    """
    path = _path_in(folder)
    with _failing(path, "written", FAILED):
        place, name = open_folder_of(str(path), makes_folders=True)
        with Descriptor(".", os.O_DIRECTORY, place) as place:
            _lock(path, place)
            for _ in range(_TRIES):
                config, file = _load(path, place, name, os.O_RDWR if in_place else os.O_RDONLY)
                content = config.with_logins(logins, forget)
                auths = content["auths"]
                if auths == config.auths:
                    return set()
                data = config.render(content)
                if len(data) > LARGEST_FILE_BYTES:
                    raise _unusable(path, f"would be larger than {LARGEST_FILE_BYTES:,} bytes with the change")
                with WRITING:
                    if file and in_place:
                        is_written = _overwrite(config, data, place, name, file)
                    else:
                        is_written = _replace(config, data, place, name, file)
                if not is_written:
                    continue
                return {host for host in (*logins, *forget) if auths.get(host) != config.auths.get(host)}
    raise CommandError(f"{path} is changed by another program all the time", "Run the command again.", FAILED)


def is_shared(folder: Path) -> bool:
    """Return whether other readers have the file by another link or mount, and would keep it when it is replaced.

    The mounts are those of this user's processes; as root, of all, containers included.
    """
    try:
        path = (folder / FILE_NAME).resolve()
        status = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, until Python 3.12
        return False
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    mounted = re.compile(rf"^\d+ \d+ {device} (/\S*{re.escape(path.name)})", re.MULTILINE)
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            if any(map(str(path).endswith, mounted.findall(mounts.read_text(errors="replace")))):
                return True
    return status.st_nlink > 1


def _path_in(folder: Path) -> Path:
    if folder.name == FILE_NAME:
        raise CommandError(f"{folder} is a file's name", "Name the folder that it is in.")
    return folder / FILE_NAME


def _load(path: Path, place: Descriptor, name: str, flags: int = os.O_RDONLY) -> tuple[DockerConfig, Descriptor | None]:
    """Open and read a file, whatever another user has put in its place: a pipe, a device, a file of root's."""
    try:
        file = Descriptor(name, flags, place)
    except FileNotFoundError:
        return DockerConfig(path, None, {}), None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(path, "is not a file")
    above = os.fstat(place.fileno())
    is_root_s_alone = above.st_uid == 0 and not above.st_mode & 0o022  # nobody else has put the file there
    if os.geteuid() == 0 and above.st_uid != status.st_uid and not is_root_s_alone:
        raise _unusable(path, "belongs to another user than its folder")
    with os.fdopen(os.dup(file.fileno()), "rb") as stream:
        data = stream.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise _unusable(path, f"is larger than {LARGEST_FILE_BYTES:,} bytes")
    keep = _NUMBER.__add__
    decoder = json.JSONDecoder(parse_int=keep, parse_float=keep, parse_constant=keep, object_pairs_hook=_unique)
    try:
        text = data.decode()
        content = decoder.decode(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"is not valid JSON: {error}") from None
    content = {} if content is None else content
    if not _has_docker_s_shape(content):
        raise _unusable(path, f"has another shape than Docker gives it, or one of {', '.join(_SHAPES)} in another case")
    return DockerConfig(path, text, content), file


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, unless it has a key twice: Docker merges their values, and Python loses one."""
    content = dict(pairs)
    if len(content) < len(pairs):
        [(name, count)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{count} keys {name!r} in one object")
    return content


def _has_docker_s_shape(content: object) -> bool:
    """Return whether all of Docker's clients read the same here: the command ``docker`` takes its keys in any case."""
    if not isinstance(content, dict):
        return False
    if {name.lower() for name in content.keys() - _SHAPES} & {name.lower() for name in _SHAPES}:
        return False
    if not all(isinstance(content.get(name), shape | None) for name, shape in _SHAPES.items()):
        return False
    helpers = (content.get("credsStore"), *(content.get("credHelpers") or {}).values())
    return all(helper is None or (isinstance(helper, str) and not helper.startswith(_NUMBER)) for helper in helpers)


def _is_changed(config: DockerConfig, place: Descriptor, name: str, file: Descriptor | None = None) -> bool:
    """Return whether a file has another content since it was read, or is not the one that was opened."""
    found, now = _load(config.path, place, name)
    is_another = file and now and not os.path.sameopenfile(file.fileno(), now.fileno())
    return bool(is_another) or found.text != config.text


def _overwrite(config: DockerConfig, data: bytes, place: Descriptor, name: str, file: Descriptor) -> bool:
    """Write into a file, and return True; False if it has been changed since it was read."""
    if _is_changed(config, place, name, file):
        return False
    size = os.fstat(file.fileno()).st_size
    try:
        _write(file, b" " * (len(data) - size), size)  # if the disk is full, it is so here: JSON may end with spaces
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise
    _write(file, data)
    return True


def _replace(config: DockerConfig, data: bytes, place: Descriptor, name: str, file: Descriptor | None) -> bool:
    """Put a new file in a file's place, and return True; False if that has been changed since it was read.

    The owner stays, or is the folder's: root may write for another user.
    """
    prefix, suffix = f".{name}.", ".tmp"
    for leftover in os.listdir(place.fileno()):  # of writers that were killed: others wait for the lock
        if leftover.startswith(prefix) and leftover.endswith(suffix):
            with suppress(OSError):  # a folder, or another user's
                os.unlink(leftover, dir_fd=place.fileno())
    temporary = f"{prefix}{secrets.token_hex(8)}{suffix}"
    try:
        with Descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place) as new:
            old = os.fstat((file or place).fileno())
            if os.geteuid() == 0 or os.geteuid() != old.st_uid:
                os.fchown(new.fileno(), old.st_uid, old.st_gid)
            _write(new, data)
        if _is_changed(config, place, name):
            return False
        os.replace(temporary, name, src_dir_fd=place.fileno(), dst_dir_fd=place.fileno())
        return True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place.fileno())


def _write(file: Descriptor, data: bytes, start: int = 0) -> None:
    """Write the rest of a file, from a place in it on."""
    with os.fdopen(os.dup(file.fileno()), "wb") as stream:
        stream.seek(start)
        stream.write(data)
        stream.truncate()
        os.fsync(stream.fileno())


def _lock(path: Path, place: Descriptor) -> None:
    """Let copies of this command write one after another, where the file system can lock a folder."""
    try:
        within(LOCK_TIMEOUT_SECONDS, partial(fcntl.flock, place, fcntl.LOCK_EX))
    except TimeoutError:
        problem = f"{path.parent} is held by another process"
        raise CommandError(problem, "Look for a copy of this command that was stopped.", FAILED) from None
    except OSError:  # NFS cannot
        return


@contextmanager
def _failing(path: Path, verb: str, exit_code: int) -> Iterator[None]:
    fix = "Correct this, or name another folder by --config or DOCKER_CONFIG."
    try:
        yield
    except RecursionError:
        raise _unusable(path, "is nested too deep") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "Make space on its disk. The file was left as it was."
        if error.errno in (errno.EACCES, errno.EPERM):
            fix = "Let this user do so, or name another folder by --config or DOCKER_CONFIG."
        if error.errno == errno.EBUSY:
            fix = "Mount the folder instead of the file, or use --in-place: a mounted file cannot be replaced."
        if isinstance(error, UnsafeFileError):
            fix, exit_code = "Put a file or folder in its place.", FAILED
        raise CommandError(f"{path} cannot be {verb}: {error.strerror}", fix, exit_code) from None


def _unusable(path: Path, problem: str) -> CommandError:
    return CommandError(f"{path} {problem}", "Correct or remove it; it was left as it was.")

"""Read Docker's ``config.json`` as Docker's clients do, and change the logins in it."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.command import FAILED, WRONG_USAGE, CommandError
from ecr_secrets_backend.cli.docker_config.paths import open_folder_of
from ecr_secrets_backend.private_files import Descriptor

FILE_NAME: Final = "config.json"
LARGEST_FILE_BYTES: Final = 1024 * 1024  # Docker's own has a few kB
LOCK_TIMEOUT_SECONDS: Final = 10.0  # a copy of this command holds the lock for milliseconds
_MAX_ATTEMPTS: Final = 20  # to change a file that other programs change, too; each takes milliseconds
_TEMPORARY_PREFIX: Final = ".ecr-secrets-backend."
#: Held while a file is written, so that a signal does not end the process in the middle.
WRITING: Final = threading.Lock()
#: The prefix of a number, which is kept as text, because Python changes 1e400 and refuses 5,000 digits.
_NUMBER: Final = f"{secrets.token_hex(8)}:"
_KEY_TYPES: Final[Mapping[str, type]] = {"auths": dict, "credHelpers": dict, "credsStore": str}
_OTHER_FOLDER: Final = "or name another folder with --config or DOCKER_CONFIG."
_FIXES: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "Free space on its disk. The file is unchanged.",
    errno.EDQUOT: "Free space in this user's quota. The file is unchanged.",
    errno.EACCES: f"Grant this user access, {_OTHER_FOLDER}",
    errno.EPERM: f"Grant this user access, {_OTHER_FOLDER}",
    errno.EBUSY: "Mount the folder instead of the file, or use --in-place: a mounted file cannot be replaced.",
}


def default_folder() -> Path:
    """Return the folder that Docker's clients use.

    :raises CommandError: this user has no home folder
    """
    try:
        return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    except RuntimeError:
        raise CommandError("This user has no home folder", "Set HOME or DOCKER_CONFIG, or use --config.") from None


def encode_login(username: str, password: str) -> str:
    """Return a login as ``auths`` stores it."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True)
class DockerConfig:
    """The content of a ``config.json``.

    :param text: the file's text; None if there is no file
    """

    path: Path
    text: str | None
    content: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> DockerConfig:
        """Read a folder's file.

        :raises CommandError: it cannot be read, or Docker did not write it
        """
        path = _path_in(folder)
        with _report_errors(path, "read", WRONG_USAGE):
            try:
                return _read(path, *open_folder_of(path))[0]
            except (FileNotFoundError, NotADirectoryError):  # there is no folder
                return cls(path, None, {})

    @property
    def auths(self) -> Mapping[str, Any]:
        """Return the logins in the file by name."""
        return self.content.get("auths") or {}

    def helper(self, host: str) -> tuple[str, str] | None:
        """Return the credential helper that Docker's clients use for a host, and the key that names it.

        docker-py uses ``auths`` if the helper has no login. The command ``docker`` does so only if it is empty.

        :return: the key, and the helper's name
        """
        if helper := (self.content.get("credHelpers") or {}).get(host):
            return f'credHelpers["{host}"]', helper
        store = self.content.get("credsStore")
        return ("credsStore", store) if store else None

    def has_empty_helper(self, host: str) -> bool:
        """Return whether a host's helper is empty, so that the command ``docker`` uses no helper for it."""
        return not (self.content.get("credHelpers") or {}).get(host, "none")

    def login(self, name: str) -> tuple[str, str] | None:
        """Return the user name and the password of an entry."""
        try:
            login = base64.b64decode(self.auths[name]["auth"], validate=True)
            username, colon, password = login.decode().partition(":")
        except (TypeError, KeyError, ValueError):
            return None
        return (username, password.rstrip("\0")) if colon else None

    def names(self, host: str) -> list[str]:
        """Return the names of a host's entries: the host itself, and its URLs."""
        return [name for name in self.auths if re.sub(r"^\w+://", "", name).partition("/")[0] == host]

    def winning_name(self, host: str) -> str | None:
        """Return the name of the entry that Docker's clients use for a host.

        Of several URLs, docker-py uses the first, and the command ``docker`` any.
        """
        return host if host in self.auths else next(iter(self.names(host)), None)

    def changed_auths(self, logins: Mapping[str, str], forget: Mapping[str, str]) -> dict[str, Any]:
        """Return ``auths`` after :func:`change_logins`."""
        removed = {name for host in logins for name in self.names(host) if name != host}
        removed |= {host for host, auth in forget.items() if self.auths.get(host) == {"auth": auth}}
        kept = {name: entry for name, entry in self.auths.items() if name not in removed}
        return {**kept, **{host: {"auth": auth} for host, auth in logins.items()}}

    def render(self, auths: Mapping[str, Any]) -> bytes:
        """Return the file with other logins."""
        text = json.dumps({**self.content, "auths": auths}, indent="\t", ensure_ascii=False)
        text = re.sub(f'"{_NUMBER}([^"]*)"', r"\1", text)
        return text.encode(errors="backslashreplace")  # JSON writes half of a surrogate pair as an escape


def change_logins(
    folder: Path, logins: Mapping[str, str], forget: Mapping[str, str], *, in_place: bool = False
) -> set[str]:
    """Add and remove logins in a folder's file, and keep the changes that other programs make at the same time.

    :param logins: the logins to add, from :func:`encode_login`, by host; other names of these hosts are removed
    :param forget: the logins to remove, unless the host has another one
    :param in_place: write into the file, which a reader may then see in part, instead of replacing it
    :return: the hosts of the changed entries
    :raises CommandError: the file or its folder cannot be used; the file is unchanged
    """
    path = _path_in(folder)
    with _report_errors(path, "written", FAILED):
        parent, name = open_folder_of(path, make_folders=True)
        with Descriptor(".", os.O_DIRECTORY, parent) as parent:
            if _lock(path, parent):
                _remove_temporary_files(parent)
            for _ in range(_MAX_ATTEMPTS):
                config, _ = _read(path, parent, name)
                auths = config.changed_auths(logins, forget)
                if auths == config.auths:
                    return set()
                write = _overwrite if in_place and config.text is not None else _replace
                with WRITING:
                    is_written = write(config, config.render(auths), parent, name)
                if is_written:
                    return {host for host in (*logins, *forget) if auths.get(host) != config.auths.get(host)}
    raise CommandError(f"Another program keeps changing {path}", "Stop it, or run the command again.", FAILED)


def is_shared(folder: Path) -> bool:
    """Return whether the file has another link or mount, where readers keep the old file when it is replaced.

    A user sees the mounts of the user's own processes, and root sees all mounts, also those of containers.
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
        raise CommandError(f"{folder} is the name of the file", "Name the folder of the file.")
    return folder / FILE_NAME


def _read(
    path: Path, parent: Descriptor, name: str, flags: int = os.O_RDONLY
) -> tuple[DockerConfig, Descriptor | None]:
    """Open and read a file. Refuse a pipe, a device or root's own file that another user may have put there."""
    try:
        file = Descriptor(name, flags, parent)
    except FileNotFoundError:
        return DockerConfig(path, None, {}), None
    status, parent_status = os.fstat(file.fileno()), os.fstat(parent.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(path, "is not a regular file")
    only_root_writes_above = parent_status.st_uid == 0 and not parent_status.st_mode & 0o022
    if os.geteuid() == 0 and parent_status.st_uid != status.st_uid and not only_root_writes_above:
        raise _unusable(path, "belongs to another user than its folder")
    with open(file.fileno(), "rb", closefd=False) as stream:
        data = stream.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise _unusable(path, f"is larger than {LARGEST_FILE_BYTES:,} bytes")
    mark = _NUMBER.__add__
    text = data.decode()
    decoder = json.JSONDecoder(parse_int=mark, parse_float=mark, parse_constant=mark, object_pairs_hook=_unique_keys)
    content = decoder.decode(text) if text.strip() else None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise _unusable(path, "is not a JSON object")
    for key, expected in _KEY_TYPES.items():
        if not isinstance(content.get(key), expected | None):
            raise _unusable(path, f"has {key} of another type than Docker writes")
    return DockerConfig(path, text, content), file


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, unless a key is in it twice: Python would keep one of the values, and Docker both."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has a key twice")
    return content


def _overwrite(config: DockerConfig, data: bytes, parent: Descriptor, name: str) -> bool:
    """Write into a file, and return whether no other program has changed it since it was read."""
    found, file = _read(config.path, parent, name, os.O_RDWR)
    if file is None or found.text != config.text:
        return False
    size = os.fstat(file.fileno()).st_size
    try:
        _write(file, b" " * (len(data) - size), size)  # on a full disk, this fails; JSON may end with spaces
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise
    _write(file, data)
    return True


def _replace(config: DockerConfig, data: bytes, parent: Descriptor, name: str) -> bool:
    """Replace a file, for its owner or its folder's, and return whether no other program has changed it."""
    temporary = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        with Descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, parent) as new:
            _write(new, data)
            found, file = _read(config.path, parent, name)
            owner = os.fstat((file or parent).fileno())
            if os.geteuid() != owner.st_uid:
                os.fchown(new.fileno(), owner.st_uid, owner.st_gid)
        if found.text != config.text:
            return False
        os.replace(temporary, name, src_dir_fd=parent.fileno(), dst_dir_fd=parent.fileno())
        return True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent.fileno())


def _remove_temporary_files(parent: Descriptor) -> None:
    """Remove the files of copies of this command that were killed: each has all logins."""
    for name in os.listdir(parent.fileno()):
        if name.startswith(_TEMPORARY_PREFIX):
            with suppress(OSError):  # it is a folder, or belongs to another user
                os.unlink(name, dir_fd=parent.fileno())


def _write(file: Descriptor, data: bytes, start: int = 0) -> None:
    with open(file.fileno(), "wb", closefd=False) as stream:
        stream.seek(start)
        stream.write(data)
        stream.truncate()
        os.fsync(stream.fileno())


def _lock(path: Path, parent: Descriptor) -> bool:
    """Make copies of this command write one after another, and return whether the file system supports that."""
    try:
        within(LOCK_TIMEOUT_SECONDS, partial(fcntl.flock, parent, fcntl.LOCK_EX))
    except TimeoutError:
        problem = f"{path.parent} is locked by another process"
        raise CommandError(problem, "Look for a stopped copy of this command, and end it.", FAILED) from None
    except OSError:  # NFS cannot lock a folder
        return False
    return True


@contextmanager
def _report_errors(path: Path, action: str, exit_code: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"is not valid JSON: {error}") from None
    except OSError as error:
        fix = _FIXES.get(error.errno, f"Correct this, {_OTHER_FOLDER}")
        raise CommandError(f"{path} cannot be {action}: {error.strerror}", fix, exit_code) from None


def _unusable(path: Path, problem: str) -> CommandError:
    return CommandError(f"{path} {problem}", "Correct or remove it. The file is unchanged.")

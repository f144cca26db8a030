"""Docker's ``config.json``: see which login wins there, and change logins, leaving all else as it was."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import re
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.cli.command import FAILED, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE_NAME: Final = "config.json"
LOCK_NAME: Final = ".config.json.lock"
_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
#: Whoever holds the lock reads and writes one small file.
LOCK_PATIENCE_SECONDS: Final = 10.0
_LOCK_PAUSE_SECONDS: Final = 0.05


def default_folder() -> Path:
    """Tell where Docker's clients look for their configuration."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def encoded(username: str, password: str) -> str:
    """Write a login as ``auths`` holds it."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True)
class DockerConfig:
    """What a ``config.json`` says.

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
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path, None, {})
        except OSError as error:
            remedy = "Let this user read it, or name another folder by --config or DOCKER_CONFIG."
            raise CommandError(f"{path} cannot be read: {error.strerror}", remedy) from None
        except ValueError:
            raise _unusable(path, "is not UTF-8") from None
        try:
            content = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise _unusable(path, f"is not JSON: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("auths", {}), dict):
            raise _unusable(path, "has another shape than Docker gives it")
        return cls(path, text, content)

    @property
    def auths(self) -> Mapping[str, Any]:
        """The logins that stand in the file itself, by the name that they were given."""
        auths: Mapping[str, Any] = self.content.get("auths", {})
        return auths

    def helper(self, host: str) -> tuple[str, str] | None:
        """Tell which credential helper Docker's clients ask for a host before they look at ``auths``.

        :return: the key that names the helper, and the helper's name
        """
        helpers = self.content.get("credHelpers")
        if isinstance(helpers, dict) and helpers.get(host):
            return f'credHelpers["{host}"]', str(helpers[host])
        store = self.content.get("credsStore")
        return ("credsStore", str(store)) if store else None

    def login(self, name: str) -> tuple[str, str] | None:
        """Read the user name and password that stand under a name."""
        try:
            login = base64.b64decode(self.auths[name]["auth"], validate=True)
            username, colon, password = login.decode().partition(":")
        except (TypeError, KeyError, ValueError):
            return None
        return (username, password.rstrip("\0")) if colon else None

    def winning_name(self, host: str) -> str | None:
        """Return the name."""
        names = self.names(host)
        return names[0] if names else None

    def names(self, host: str) -> list[str]:
        """List the names under which logins for a host stand: the host, or a URL with it."""
        return [name for name in self.auths if re.sub(r"^https?://", "", name).partition("/")[0] == host]


def change_logins(folder: Path, logins: Mapping[str, str], forget: Mapping[str, str]) -> set[str]:
    """Set and forget logins in a folder's file, as a whole and one writer at a time.

    :param logins: those to set: what :func:`encoded` gives, by host
    :param forget: those to forget, unless another stands there by now
    :return: the hosts whose entries were changed
    :raises CommandError: the file, or its folder, is not to be used; it is left as it was
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER_MODE, parents=True)
        with _lock(folder):
            config = DockerConfig.load(folder)
            auths = {**config.auths}
            for host, auth in forget.items():
                if auths.get(host) == {"auth": auth}:
                    del auths[host]
            auths.update({host: {"auth": auth} for host, auth in logins.items()})
            if auths != config.auths:
                _replace(config, {**config.content, "auths": auths})
            return {host for host in (*logins, *forget) if auths.get(host) != config.auths.get(host)}
    except OSError as error:
        problem = f"{folder / FILE_NAME} cannot be written: {error.strerror}"
        raise CommandError(problem, _remedy(error), FAILED) from None


def _replace(config: DockerConfig, content: object) -> None:
    found = re.match(r"\s*\{\s*?\n([ \t]+)", config.text or "")
    text = json.dumps(content, indent=found[1] if found else "\t", ensure_ascii=False)
    target = _target(config.path)
    owner = target.stat() if target.exists() else target.parent.stat()
    prefix, suffix = f".{target.name}.", ".tmp"
    for leftover in target.parent.glob(f"{prefix}*{suffix}"):  # of writers that were killed: we have the lock
        leftover.unlink(missing_ok=True)
    descriptor, temporary = tempfile.mkstemp(suffix, prefix, target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _give(descriptor, owner)
            file.write(text + ("\n" if (config.text or "").endswith("\n") else ""))
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _target(path: Path) -> Path:
    """Follow a link of our own: whoever keeps the file elsewhere keeps it there. Another user's leads astray."""
    if path.is_symlink() and path.lstat().st_uid != os.geteuid():
        raise CommandError(f"{path} is a link that belongs to another user", "Put a file in its place.", FAILED)
    return path.resolve()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    descriptor = _open_lock(folder)
    try:
        give_up_at = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not _locked(descriptor):
            if time.monotonic() >= give_up_at:
                remedy = "Look for a process that was stopped while it had it."
                raise CommandError(f"{folder / LOCK_NAME} is held by another process", remedy, FAILED)
            time.sleep(_LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock(folder: Path) -> int:
    path, flags = folder / LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        with suppress(FileExistsError):  # another copy was quicker
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            _give(descriptor, folder.stat())
            return descriptor


def _give(descriptor: int, owner: os.stat_result) -> None:
    """Give a new file to whom the old one belonged: root may write the configuration of another user."""
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid) and (os.geteuid() == 0 or own.st_uid != owner.st_uid):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _unusable(path: Path, problem: str) -> CommandError:
    return CommandError(f"{path} {problem}", "Mend or remove it; it was left as it was.")


def _remedy(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "Mount the folder, not the file alone: a mounted file cannot be replaced."
    return "Let this user write there, or name another folder by --config or DOCKER_CONFIG."

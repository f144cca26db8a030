"""
A machine within the machine: its own network, processes and mounts, of which nothing is left when it ends.

Inside, every port is free, ``/run``, ``/dev/shm`` and ``/etc/docker`` are empty, and ``/etc/hosts`` names what the test
wants. Files elsewhere are the machine's own, so programs, libraries and the world's folder are there under their names.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Result = TypeVar("Result")

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
PROGRAMS = ("busybox", "docker", "docker-registry", "dockerd", "ip", "mount", "nsenter", "unshare")
ADDRESS = "192.0.2.1"  # RFC 5737 keeps it for documentation. To Docker a registry at 127.0.0.1 needs no certificate.
SETUP = f"""
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /etc/docker
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind hosts /etc/hosts
ip link set lo up
ip address add {ADDRESS}/32 dev lo
echo ready
cat # Until the test lets go of this input, or dies. Then this shell, process 1, ends and takes all others with it.
"""
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
CONTROL_GROUPS = Path("/sys/fs/cgroup")
POLL_SECONDS = 0.2
TAIL_LINES = 40


def missing() -> str | None:
    """Tell why there can be no world here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root may make namespaces, mounts and a Docker engine"
    if absent := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        return f"not installed: {', '.join(absent)}"
    if not Path("/etc/docker").is_dir():
        return "there is no folder /etc/docker to put another one over"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


class World:
    """
    A running world.

    :param folder: where it keeps its files
    :param anchor: the process that holds it
    """

    def __init__(self, folder: Path, anchor: int) -> None:
        self.folder = folder
        self.root = Path(f"/proc/{anchor}/root")
        self.control_group = f"ecr-world-{anchor}"
        self.environment = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PATH": PATH,
            "TMPDIR": str(folder),
        }
        self._namespaces = Path(f"/proc/{anchor}/ns")
        self._services: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    @contextmanager
    def running(cls, folder: Path, hosts: Iterable[str]) -> Iterator[World]:
        """
        Make a world that ends with the block, or with this process, however it dies.

        :param folder: an empty folder
        :param hosts: names that mean `ADDRESS` in it
        """
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {' '.join(hosts)}\n")
        anchor = subprocess.Popen(
            [*UNSHARE, "sh", "-ec", SETUP],
            cwd=folder,
            env={"PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test, which then ends its world
        )
        world = cls(folder, anchor.pid)
        try:
            with anchor:
                assert anchor.stdout is not None
                said = anchor.stdout.readline()
                assert said == "ready\n", said
                yield world
        finally:
            for service in world._services.values():
                service.wait()
            world._remove_control_groups()

    def run(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
        exit_code: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command to its end.

        :param environment: variables beside the world's own
        :param timeout: seconds
        :param exit_code: what it is to end with
        :raises AssertionError: when it ends with another, with what it said
        """
        done = subprocess.run(
            self._enter(command),
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == exit_code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None) -> None:
        """
        Start a command that lives as long as the world, with ``<name>.log`` in the world's folder for all that it says.

        :param environment: variables beside the world's own
        """
        with (self.folder / f"{name}.log").open("wb") as log:
            self._services[name] = subprocess.Popen(
                self._enter(command),
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, name: str) -> None:
        """Kill a command that was started; what it says last is kept."""
        service = self._services.pop(name)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(service.pid, signal.SIGKILL)
        service.wait()

    @contextmanager
    def serving(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command as :meth:`start` does, and end it with the block by SIGTERM, which it has to obey."""
        self.start(name, *command, environment=environment)
        service = self._services.pop(name)
        try:
            yield service
        finally:
            # To the command itself: `nsenter`, which waits for it, would not pass the signal on.
            for child in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)
            service.wait(10)

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call a function of this process in the world's network, where sockets and processes that it makes remain."""

        def enter_and_call() -> Result:
            with (self._namespaces / "net").open() as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return function()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(enter_and_call).result()

    def ask(self, port: int, path: str, body: object = None) -> Any:
        """
        Ask an HTTP server of the world, and get its JSON.

        :param body: what to POST; without it, GET
        :raises ConnectionError: when the server is not there, or refuses
        """

        def request() -> Any:
            with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                headers = {"Content-Type": "application/json"}
                connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                message = f"{path} was answered by {answer.status}: {text}"
                raise ConnectionError(message)
            return json.loads(text)

        return self.inside(request)

    def wait(self, what: str, check: Callable[[], Result], seconds: float = 60) -> Result:
        """
        Wait until a check gives something true; a refused or silent connection is only a reason to ask again.

        :param what: what is waited for
        :param seconds: how long at most
        :raises AssertionError: when that is over, or a service of the world has ended
        """
        deadline = time.monotonic() + seconds
        trouble: object = "not yet"
        while time.monotonic() < deadline:
            try:
                if result := check():
                    return result
            except (ConnectionError, TimeoutError) as refusal:
                trouble = refusal
            if ended := [name for name, service in self._services.items() if service.poll() is not None]:
                trouble = f"ended: {', '.join(ended)}"
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{what}: {trouble}\n{self.tails()}")

    def tails(self, *others: Path) -> str:
        """Give the last lines that each service said, and those of other files."""
        files = [self.folder / f"{name}.log" for name in self._services]
        return "\n".join(
            f"--- {file}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            for file in (*files, *others)
        )

    def _enter(self, command: Iterable[str | Path]) -> list[str | Path]:
        namespaces = {"mount": "mnt", "net": "net", "pid": "pid_for_children"}
        options = [f"--{option}={self._namespaces / name}" for option, name in namespaces.items()]
        return ["nsenter", *options, "--", "env", f"--chdir={self.folder}", *command]

    def _remove_control_groups(self) -> None:
        """Remove what the Docker engine leaves in each hierarchy; there may be one (version 2) or many (version 1)."""
        for hierarchy in (CONTROL_GROUPS, *CONTROL_GROUPS.iterdir()):
            for group, _, _ in os.walk(hierarchy / self.control_group, topdown=False):
                Path(group).rmdir()

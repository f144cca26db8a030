"""
Linux namespaces with their own network, processes and mounts, which leave nothing behind when they end.

Inside, every port is free, ``/run``, ``/dev/shm`` and ``/etc/docker`` are empty, and ``/etc/hosts`` has the test's
names. All other files are those of the machine.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from examples.demo.airflow_site import AirflowSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

Result = TypeVar("Result")

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
OWN_PROCESSES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
UNSHARE = (*OWN_PROCESSES, "--mount", "--net")
PROGRAMS = ("busybox", "docker", "docker-registry", "dockerd", "ip", "mount", "nsenter", "unshare")
ADDRESS = "192.0.2.1"  # RFC 5737 reserves it for documentation. For 127.0.0.1, Docker requires no certificate.
SETUP = f"""
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /etc/docker
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind hosts /etc/hosts
ip link set lo up
ip address add {ADDRESS}/32 dev lo
echo ready
cat # Until the test closes this input or ends. Then this shell, process 1, ends, and the kernel ends all others.
"""
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
CONTROL_GROUPS = Path("/sys/fs/cgroup")
TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.1
TAIL_BYTES = 4_000


def missing() -> str | None:
    """Return why this machine cannot run a world; None if it can."""
    if absent := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        return f"not installed: {', '.join(absent)}"
    if not Path("/etc/docker").is_dir():
        return "the folder /etc/docker does not exist"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


class World:
    """
    A running world.

    :param folder: its files
    :param anchor: the ID of the process that keeps the namespaces
    """

    def __init__(self, folder: Path, anchor: int) -> None:
        self.folder = folder
        self.root = Path(f"/proc/{anchor}/root")
        self.control_group = f"ecr-world-{anchor}"
        self.environment = {"HOME": str(folder), "LANG": "C.UTF-8", "PATH": PATH, "TMPDIR": str(folder)}
        self._network = Path(f"/proc/{anchor}/ns/net")
        namespaces = {"mount": "mnt", "net": "net", "pid": "pid_for_children"}
        options = [f"--{option}=/proc/{anchor}/ns/{name}" for option, name in namespaces.items()]
        self._prefix = ("nsenter", *options, "--", "env", f"--chdir={folder}")
        self._services: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    @contextmanager
    def running(cls, folder: Path, hosts: Iterable[str]) -> Iterator[World]:
        """
        Run a world until the block ends, or until this process ends for any reason.

        :param folder: an empty folder
        :param hosts: names that resolve to `ADDRESS` in it
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
            start_new_session=True,  # Ctrl-C reaches only the test, which then ends its world
        )
        world = cls(folder, anchor.pid)
        try:
            with anchor:
                assert anchor.stdout is not None
                line = anchor.stdout.readline()
                assert line == "ready\n", line
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

        :param environment: variables besides the world's own
        :param timeout: seconds
        :raises AssertionError: it ends with another exit code; the message has its output
        """
        done = subprocess.run(
            [*self._prefix, *command],
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == exit_code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs until the world ends, and writes to ``<name>.log`` in the world's folder."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._services[name] = subprocess.Popen(
                [*self._prefix, *command],
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._services[name]

    def airflow(self, name: str, dags: Path, settings: Mapping[str, str]) -> AirflowSite:
        """
        Return an Airflow in this world. Each of its commands sees only its own processes, as in a container.

        :param name: its folder in the world's
        """
        settings = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True", **settings}
        prefix = (*self._prefix, *OWN_PROCESSES)
        return AirflowSite(self.folder / name, dags, settings, prefix=prefix, inside=self.inside)

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call a function in the world's network. Sockets and processes that it creates stay there."""

        def enter_and_call() -> Result:
            with self._network.open() as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return function()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(enter_and_call).result()

    @contextmanager
    def running_inside(self, running: Callable[[], AbstractContextManager[Result]]) -> Iterator[Result]:
        """Enter a context in the world's network."""
        with ExitStack() as stack:
            yield self.inside(lambda: stack.enter_context(running()))

    def wait(self, what: str, check: Callable[[], object]) -> None:
        """
        Call a check until it returns something true.

        :raises AssertionError: the timeout has passed, or a service of the world has ended; with the end of each log
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not check():
            ended = [name for name, service in self._services.items() if service.poll() is not None]
            logs = {name: (self.folder / f"{name}.log").read_bytes()[-TAIL_BYTES:] for name in self._services}
            assert not ended, f"{what}: ended: {ended}: {logs}"
            assert time.monotonic() < deadline, f"{what}: not yet: {logs}"
            time.sleep(POLL_SECONDS)

    def _remove_control_groups(self) -> None:
        """Remove the groups that the Docker engine leaves in each hierarchy: one in version 2, many in version 1."""
        for hierarchy in (CONTROL_GROUPS, *CONTROL_GROUPS.iterdir()):
            for group, _, _ in os.walk(hierarchy / self.control_group, topdown=False):
                Path(group).rmdir()

"""
One pod for each task, as with the KubernetesExecutor: new containers, and volumes that they share.

A container here is a process with mounts of its own, an empty ``/dev/shm``, and a user.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.host_store import FOLDER_NAME
from tests.process_helpers import REGISTRY, Lookups, check, look_up
from tests.requirements import need_mounts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

AIRFLOW = 50000  # the user of Airflow's own container image
OTHER = 50001
CLONE_NEWNS, MS_BIND, MS_PRIVATE_ALL = 0x20000, 0x1000, 0x44000  # <linux/sched.h>, <linux/mount.h>


@pytest.fixture(autouse=True)
def _containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the test if no container can be made; a container has no runtime folder."""
    need_mounts()
    monkeypatch.delenv("XDG_RUNTIME_DIR")


@pytest.fixture
def volume(shared_folder: Path) -> Path:
    """A folder of the node that all users may write to, as a ``hostPath`` volume has to be."""
    folder = shared_folder / "of the node"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def look_up_in_pod(aws: AwsStandIn, volume: Path | None, mount_path: Path, user: int) -> Lookups:
    """
    Look up twice, as the one task of a new container.

    :param volume: the node's folder that the container mounts at ``mount_path`` for its cache; None: no volume
    """
    system("unshare", CLONE_NEWNS)
    system("mount", None, b"/", None, MS_PRIVATE_ALL, None)
    system("mount", b"tmpfs", b"/dev/shm", b"tmpfs", 0, None)
    if volume is not None:
        system("mount", os.fsencode(volume), os.fsencode(mount_path), None, MS_BIND, None)
    os.setgroups([])
    os.setgid(0)  # as in Airflow's own image
    os.setuid(user)
    cache = {} if volume is None else {"cache_dir": str(mount_path)}
    return check(look_up({"connections": {"docker_default": REGISTRY}, **cache}, aws, times=2))


def system(call: str, *arguments: object) -> None:
    """Make a system call for which Python has no function before 3.12."""
    if getattr(ctypes.CDLL(None, use_errno=True), call)(*arguments):
        raise OSError(ctypes.get_errno(), call)


@pytest.fixture
def run_pods(aws: AwsStandIn, processes: Processes, shared_folder: Path) -> Callable[..., list[Lookups]]:
    """Run a pod for each user, one after another."""
    mount_path = shared_folder / "in the pod"
    mount_path.mkdir()
    return lambda volume, *users: [processes.run(look_up_in_pod, aws, volume, mount_path, user) for user in users]


@pytest.mark.parametrize(("has_volume", "calls"), [(False, 3), (True, 1)])
def test_pods_of_one_user_share_a_token_if_they_share_a_volume(
    aws: AwsStandIn, run_pods: Callable[..., list[Lookups]], volume: Path, has_volume: bool, calls: int
) -> None:
    """With ``cache_dir`` on it; without it, each new container has an empty cache, and requests one token."""
    pods = run_pods(volume if has_volume else None, AIRFLOW, AIRFLOW, AIRFLOW)

    assert len({token for pod in pods for token in pod.tokens}) == len(aws.calls()) == calls
    assert [pod.warnings for pod in pods] == [[], [], []]


def test_pods_of_different_users_do_not_share_a_token(
    aws: AwsStandIn, run_pods: Callable[..., list[Lookups]], volume: Path
) -> None:
    """Each user has a folder that is closed to the other."""
    one, other = run_pods(volume, AIRFLOW, OTHER)

    assert not {*one.tokens} & {*other.tokens}
    assert len(aws.calls()) == 2
    folders = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in volume.iterdir()}
    assert folders == {FOLDER_NAME.format(uid=user): (user, 0o700) for user in (AIRFLOW, OTHER)}


def test_a_pod_refuses_the_folder_of_another_user_in_its_place(
    aws: AwsStandIn, run_pods: Callable[..., list[Lookups]], volume: Path
) -> None:
    """It uses its own shared memory, and logs the cause."""
    planted = volume / FOLDER_NAME.format(uid=AIRFLOW)
    planted.mkdir(mode=0o777)
    os.chown(planted, OTHER, 0)
    (pod,) = run_pods(volume, AIRFLOW)

    assert len(aws.calls()) == 1
    assert all(f"belongs to user {OTHER}" in warning for warning in pod.warnings)
    assert list(planted.iterdir()) == []
    assert pod.warnings

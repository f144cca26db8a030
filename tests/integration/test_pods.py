"""
One pod for each task, as the KubernetesExecutor has it: containers that begin empty, and volumes that they share.

What makes a container here is what matters to a cache: mounts of its own, with an empty ``/dev/shm``, and a user.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.host_store import FOLDER_NAME
from tests.process_helpers import Lookups, look_up
from tests.requirements import need_root, skip_or_fail

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

CONNECTIONS = {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}
AIRFLOW = 50000  # the user of Airflow's own container image
OTHER = 50001
CLONE_NEWNS, MS_BIND, MS_PRIVATE_ALL = 0x20000, 0x1000, 0x44000  # <linux/sched.h>, <linux/mount.h>


@pytest.fixture(autouse=True)
def _containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers can be made here, and have no runtime folder."""
    need_root()
    tried = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode:
        skip_or_fail(f"nothing may be mounted here: {tried.stderr.strip()}")
    monkeypatch.delenv("XDG_RUNTIME_DIR")


@pytest.fixture
def volume(shared_folder: Path) -> Path:
    """A folder of the node that every user may write to, as a ``hostPath`` volume has to be."""
    folder = shared_folder / "of the node"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def look_up_in_pod(volume: Path | None, mount_path: Path, user: int) -> Lookups:
    """Look up twice, as the one task of a new container.

    :param volume: the node's folder that the container has at ``mount_path``, where its cache is to be; None: no such
    :param user: who runs the container
    """
    system("unshare", CLONE_NEWNS)
    system("mount", None, b"/", None, MS_PRIVATE_ALL, None)
    system("mount", b"tmpfs", b"/dev/shm", b"tmpfs", 0, None)
    kwargs: dict[str, Any] = {"connections": CONNECTIONS}
    if volume is not None:
        system("mount", os.fsencode(volume), os.fsencode(mount_path), None, MS_BIND, None)
        kwargs["cache_dir"] = str(mount_path)
    os.setgroups([])
    os.setgid(0)  # as Airflow's own image has it
    os.setuid(user)
    return look_up(kwargs, times=2)


def system(call: str, *arguments: object) -> None:
    """Make a system call that Python has no function for, or not before 3.12."""
    if getattr(ctypes.CDLL(None, use_errno=True), call)(*arguments):
        raise OSError(ctypes.get_errno(), call)


def run_pods(processes: Processes, folder: Path, volume: Path | None, *users: int) -> list[Lookups]:
    """Run a pod for each user, one after the other."""
    mount_path = folder / "in the pod"
    mount_path.mkdir()
    return [processes.run(look_up_in_pod, volume, mount_path, user) for user in users]


def test_each_pod_mints_once(aws: AwsStandIn, processes: Processes, shared_folder: Path) -> None:
    """A new container has an empty cache: one AWS call for each, and no warning."""
    pods = run_pods(processes, shared_folder, None, AIRFLOW, AIRFLOW, AIRFLOW)

    assert len({token for pod in pods for token in pod.tokens}) == len(aws.calls()) == 3
    assert [pod.warnings for pod in pods] == [()] * 3


def test_pods_of_one_user_share_a_volume_of_their_node(
    aws: AwsStandIn, processes: Processes, shared_folder: Path, volume: Path
) -> None:
    """With ``cache_dir`` on it, one AWS call is for all that ever run there."""
    pods = run_pods(processes, shared_folder, volume, AIRFLOW, AIRFLOW, AIRFLOW)

    assert len({token for pod in pods for token in pod.tokens}) == len(aws.calls()) == 1
    assert [pod.warnings for pod in pods] == [()] * 3


def test_pods_of_different_users_do_not_share(
    aws: AwsStandIn, processes: Processes, shared_folder: Path, volume: Path
) -> None:
    """Each user has a folder of its own, which is closed to the other."""
    ours, theirs = run_pods(processes, shared_folder, volume, AIRFLOW, OTHER)

    assert not {*ours.tokens} & {*theirs.tokens}
    assert len(aws.calls()) == 2
    folders = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in volume.iterdir()}
    assert folders == {FOLDER_NAME.format(uid=user): (user, 0o700) for user in (AIRFLOW, OTHER)}


def test_a_pod_refuses_what_another_user_has_put_in_its_place(
    aws: AwsStandIn, processes: Processes, shared_folder: Path, volume: Path
) -> None:
    """It uses its own shared memory, and logs the cause."""
    planted = volume / FOLDER_NAME.format(uid=AIRFLOW)
    planted.mkdir(mode=0o777)
    os.chown(planted, OTHER, 0)
    (pod,) = run_pods(processes, shared_folder, volume, AIRFLOW)

    assert len(aws.calls()) == 1
    assert all(f"belongs to user {OTHER}" in warning for warning in pod.warnings)
    assert list(planted.iterdir()) == []
    assert pod.warnings

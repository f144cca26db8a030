"""
One pod for each task, as with the KubernetesExecutor: new containers, and volumes that they share.

A container here is a process with mounts of its own, an empty ``/dev/shm``, and a user.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.host_store import FOLDER_NAME
from tests.process_helpers import REGISTRY, Lookups, check, look_up, unshare_mounts
from tests.requirements import need_mounts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

AIRFLOW = 50000  # the user of Airflow's own container image
OTHER = 50001


def look_up_in_pod(aws: AwsStandIn, volume: Path | None, mount_path: Path, user: int) -> Lookups:
    """
    Look up twice, as the one task of a new container.

    :param volume: the node's folder that the container mounts at ``mount_path`` for its cache; None: no volume
    """
    unshare_mounts()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)  # noqa: S108 - its own one
    if volume is not None:
        subprocess.run(["mount", "--bind", volume, mount_path], check=True)
    os.setgroups([])
    os.setgid(0)  # as in Airflow's own image
    os.setuid(user)
    cache = {} if volume is None else {"cache_dir": str(mount_path)}
    return check(look_up({"connections": {"docker_default": REGISTRY}, **cache}, aws, times=2))


@pytest.mark.parametrize(("has_volume", "calls"), [(False, 4), (True, 2)])
def test_pods_of_one_user_share_a_token_if_they_share_a_volume(
    aws: AwsStandIn,
    processes: Processes,
    shared_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_volume: bool,
    calls: int,
) -> None:
    """With ``cache_dir`` on it; without it, each new container has an empty cache, and requests one token.

    Each user has a folder that is closed to the other.
    """
    need_mounts()
    monkeypatch.delenv("XDG_RUNTIME_DIR")  # a container has none
    volume, mount_path = shared_folder / "of the node", shared_folder / "in the pod"
    mount_path.mkdir()
    volume.mkdir()
    volume.chmod(0o1777)  # as a ``hostPath`` volume has to be
    users = (AIRFLOW, AIRFLOW, AIRFLOW, OTHER)

    pods = [processes.run(look_up_in_pod, aws, volume if has_volume else None, mount_path, user) for user in users]

    assert len({token for pod in pods for token in pod.tokens}) == len(aws.calls()) == calls
    assert not {*pods[0].tokens} & {*pods[-1].tokens}
    assert [pod.warnings for pod in pods] == [[]] * 4
    folders = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in volume.iterdir()}
    assert folders == {FOLDER_NAME.format(uid=user): (user, 0o700) for user in {*users} if has_volume}

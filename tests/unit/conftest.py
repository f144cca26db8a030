from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import host_store, private_files
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def aws(loopback_aws: AwsStandIn) -> AwsStandIn:
    return loopback_aws


@pytest.fixture
def no_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the default places of the host's cache, and reset what a process remembers of them."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(host_store, "_SHARED_MEMORY", "/proc/nonexistent")
    monkeypatch.setattr(host_store, "_TEMP_FOLDERS", ())
    host_store._warn.cache_clear()
    monkeypatch.setattr(private_files, "_folders_ignoring_permissions", set())


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> HostStore:
    request.getfixturevalue("no_default_place")
    return HostStore(str(tmp_path))


@pytest.fixture
def folder(store: HostStore, tmp_path: Path) -> Path:
    """Return the folder of the store."""
    store.read("nothing")
    return tmp_path / FOLDER_NAME.format(uid=os.geteuid())

from __future__ import annotations

from typing import TYPE_CHECKING

from ecr_secrets_backend.cli.clear import delete
from tests.unit.folders import NAME, write

if TYPE_CHECKING:
    from pathlib import Path

    from ecr_secrets_backend.host_store import HostStore


def test_what_is_deleted_is_gone(store: HostStore, folder: Path) -> None:
    """The caller learns whether there was anything."""
    write(store, b"content")

    assert delete(str(folder), NAME)
    assert store.read(NAME) is None
    assert not delete(str(folder), NAME)

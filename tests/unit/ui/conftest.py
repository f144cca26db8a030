from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow_version import HAS_PAGES
from tests.command_settings import US_HOST

if TYPE_CHECKING:
    from pathlib import Path

collect_ignore = [] if HAS_PAGES else ["test_app.py", "test_overview.py"]


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    return {"connections": {"docker_default": US_HOST}, "cache_dir": str(tmp_path)}

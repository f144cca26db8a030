from __future__ import annotations

from tests.airflow_version import HAS_PAGES

collect_ignore = [] if HAS_PAGES else ["test_app.py", "test_overview.py"]

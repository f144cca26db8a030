"""An auth manager with finer rights than Airflow's simple one."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class ReaderAuthManager(SimpleAuthManager):
    """Lets the user ``reader`` only read connections, without those that are called ``hidden…``."""

    def is_authorized_connection(self, *, method: Any, user: Any, details: Any = None) -> bool:
        if user.username != "reader":
            return super().is_authorized_connection(method=method, user=user, details=details)
        return method == "GET" and not ((details and details.conn_id) or "").startswith("hidden")

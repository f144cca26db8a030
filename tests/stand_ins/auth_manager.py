"""An auth manager with finer rights than Airflow's own simple one, as those of companies have them."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class ReaderAuthManager(SimpleAuthManager):
    """Lets the user ``reader`` look at connections, but not at those that are called ``hidden…``, and do no more."""

    def is_authorized_connection(self, *, method: Any, user: Any, details: Any = None) -> bool:
        if user.username != "reader":
            return super().is_authorized_connection(method=method, user=user, details=details)
        return method == "GET" and not ((details and details.conn_id) or "").startswith("hidden")

"""A factory of sessions for Airflow's option ``[aws] session_factory``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory

if TYPE_CHECKING:
    from boto3.session import Session


class MarkingFactory(BaseSessionFactory):
    """Marks each request of its sessions."""

    def create_session(self, *arguments: Any, **named: Any) -> Session:
        """Create a session; its clients add a word to their user agent."""
        session: Session = super().create_session(*arguments, **named)
        session.events.register("before-send", mark)
        return session


def mark(request: Any, **_: object) -> None:
    """Add the word; the header is not part of the signature."""
    request.headers["User-Agent"] = f"{request.headers['User-Agent'].decode()} the-company"

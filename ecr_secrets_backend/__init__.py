"""Live Amazon ECR logins for Airflow's Docker connections, with nothing stored and nothing to refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecr_secrets_backend.backend import EcrSecretsBackend

__all__ = ["EcrSecretsBackend", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the backend when it is first needed, and Airflow before it."""
    if name != "EcrSecretsBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Airflow imports its backend while this module is itself being imported, and no other order works.
    import airflow.configuration  # noqa: F401

    from ecr_secrets_backend.backend import EcrSecretsBackend

    return EcrSecretsBackend

"""An Airflow secrets backend that serves Docker connections with valid Amazon ECR tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecr_secrets_backend.backend import EcrSecretsBackend

__all__ = ["EcrSecretsBackend", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the backend at its first use, and Airflow before it."""
    if name != "EcrSecretsBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # airflow.configuration imports the backend while it is imported itself. The opposite order is an import cycle.
    import airflow.configuration  # noqa: F401

    from ecr_secrets_backend.backend import EcrSecretsBackend

    return EcrSecretsBackend

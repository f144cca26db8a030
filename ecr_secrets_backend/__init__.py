"""Live Amazon ECR logins for Airflow's Docker connections, with nothing stored and nothing to refresh.

.. code-block:: ini

    [secrets]
    backend = ecr_secrets_backend.EcrSecretsBackend
    backend_kwargs = {"connections": {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecr_secrets_backend.backend import EcrSecretsBackend

__all__ = ["EcrSecretsBackend", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the backend when it is first asked for.

    Airflow imports the configured backend while ``airflow.configuration`` is itself being imported. Whoever asks for it
    before Airflow was imported must let Airflow begin: only then is there one order of imports, Airflow's own.
    """
    if name != "EcrSecretsBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import airflow.configuration  # noqa: F401

    from ecr_secrets_backend.backend import EcrSecretsBackend

    return EcrSecretsBackend

"""Real Airflow processes, configured with the backend by environment variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.conftest import HOST, execute
from tests.airflow_version import DENIAL, HAS_TEAMS

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn


@pytest.mark.parametrize(
    "imports",
    [
        "import airflow.configuration; from ecr_secrets_backend import EcrSecretsBackend",
        "import ecr_secrets_backend, airflow.configuration; EcrSecretsBackend = ecr_secrets_backend.EcrSecretsBackend",
        "from ecr_secrets_backend import EcrSecretsBackend",
        "import ecr_secrets_backend.settings; import airflow; from ecr_secrets_backend import EcrSecretsBackend",
    ],
)
def test_either_import_order_works(environment: dict[str, str], imports: str) -> None:
    """In either order there is one class, no warning, and an exception of the class that Airflow passes on."""
    check = """if True:
        from airflow.configuration import secrets_backend_list
        from ecr_secrets_backend.airflow_compat import access_denied
        from ecr_secrets_backend.errors import TokenFailure
        print([type(backend) is EcrSecretsBackend for backend in secrets_backend_list])
        bases = type(access_denied("docker_default", TokenFailure("", "", "", "", ""))).__mro__
        print([base.__name__ for base in bases if base.__module__.startswith("airflow.")])
    """
    done = execute(environment, "-c", f"exec({imports!r}); exec({check!r})")

    bases = [DENIAL.__name__] if DENIAL else []
    assert done.stdout.splitlines()[-2:] == ["[True, False, False]", str(bases)]
    assert "/ecr_secrets_backend/" not in done.stderr


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (
            '{"connections": {"docker_eu": {"regoin_name": "x"}}}',
            "connections.docker_eu.regoin_name is not supported. Did you mean region_name?",
        ),
        ('{"connections": ', "Airflow cannot parse them as JSON"),  # Airflow drops them with a warning
    ],
    ids=["invalid kwarg", "not JSON"],
)
def test_wrong_kwargs_stop_airflow_with_the_reason(environment: dict[str, str], kwargs: str, reason: str) -> None:
    environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = kwargs

    assert reason in execute(environment, "-m", "airflow", "version", exit_code=1).stderr


def test_a_lookup_with_a_team_name_is_served(environment: dict[str, str], aws: AwsStandIn) -> None:
    """Airflow passes one from 3.2 on, and skips without a message a backend that does not accept it."""
    environment["AIRFLOW__CORE__MULTI_TEAM"] = "True"
    team = {"team_name": "blue"} if HAS_TEAMS else {}
    program = f"""if True:
        from airflow.models.connection import Connection
        print(Connection.get_connection_from_secrets("docker_default", **{team}).host)
    """

    assert execute(environment, "-c", program).stdout.splitlines()[-1:] == [HOST]
    assert len(aws.calls()) == 1

"""``token``: print a registry's password, for ``docker login --password-stdin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import SUCCESS, Command, argument

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    """Print the password."""
    config = configuration.read(options)
    mapped = config.connection(options.conn_id)
    with output.progress("Waiting for the token"):
        login = config.login(mapped)
    output.text(login.token.password)
    return SUCCESS


COMMAND: Final = Command(
    name="token",
    help="print a connection's password, for docker login --password-stdin",
    description="Print the password of a mapped connection: from the cache while it has a valid token, else a new one.",
    epilog="""examples:
  ecr-secrets-backend token docker_default |
      docker login --username AWS --password-stdin 123456789012.dkr.ecr.us-east-1.amazonaws.com
  ecr-secrets-backend token docker_default --backend-kwargs kwargs.json | skopeo login -u AWS --password-stdin ...""",
    arguments=(
        argument("conn_id", metavar=configuration.CONN_ID, help="a mapped connection"),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

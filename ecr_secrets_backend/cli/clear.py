"""``clear``: forget cached tokens, safely while other processes read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import FAILED, GOOD, Command, CommandError, argument
from ecr_secrets_backend.cli.survey import ENTRY_SUFFIX, Survey
from ecr_secrets_backend.private_files import PrivateFolder

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    """Delete entries, but no locks: a lock that is deleted while it is held is no longer a lock."""
    configured = configuration.read(options)
    store = configured.store
    if store is None:
        output.text('cache = "process": there are no tokens on the host to forget.')
        return GOOD
    survey = Survey.of(store)
    if survey.path is None:
        output.text("There is no folder for the cache of this user, so there are no tokens on the host to forget.")
        return GOOD
    own = {f"{configured.key(each)}{ENTRY_SUFFIX}" for each in configured.settings.connections.values()}
    found = {file.name for file in survey.files if file.name.endswith(ENTRY_SUFFIX)}
    try:
        forgotten = sum(delete(survey.path, name) for name in sorted(found if options.all else found & own))
    except OSError as error:
        fix = f"Check the owner and the mode of {survey.path}."
        raise CommandError(f"Cannot change the cache: {error.strerror}", fix, FAILED) from None
    left = len(found) - forgotten
    others = f"; {left} of other configurations or environments left, which --all forgets" if left else ""
    output.text(f"Forgot {forgotten} token{'' if forgotten == 1 else 's'}{others}.")
    return GOOD


def delete(path: str, name: str) -> bool:
    """Delete a file of the cache's folder, and return whether there was one."""
    with PrivateFolder(path, makes_parents=False) as folder:
        return folder.remove(name)


COMMAND: Final = Command(
    name="clear",
    help="forget cached tokens, safely while other processes read",
    description="Forget the cached tokens and failures of this configuration, so the next lookup requests a token.\n"
    "A running process keeps the token in its memory until that is due for renewal.",
    epilog="""examples:
  ecr-secrets-backend clear          # after you have fixed a permission or a role, for instance
  ecr-secrets-backend clear --all""",
    arguments=(
        argument("--all", action="store_true", help="also those of other configurations and environments of this user"),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

"""``clear``: delete cached tokens, also while other processes read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.cache_folder import ENTRY_SUFFIX, CacheFolder
from ecr_secrets_backend.cli.command import FAILED, SUCCESS, Command, CommandError, argument
from ecr_secrets_backend.private_files import PrivateFolder

if TYPE_CHECKING:
    import argparse

    from ecr_secrets_backend.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    """Delete entries, but no lock files: the holder of a deleted lock excludes no other process."""
    config = configuration.read(options)
    folder = CacheFolder.inspect(config.logins.store)
    if folder.path is None:
        output.text("There is no cache on this host.")
        return SUCCESS
    own = {f"{config.key(each)}{ENTRY_SUFFIX}" for each in config.settings.connections.values()}
    found = {file.name for file in folder.files if file.name.endswith(ENTRY_SUFFIX)}
    try:
        deleted = sum(delete(folder.path, name) for name in sorted(found if options.all else found & own))
    except OSError as error:
        fix = f"Check the owner and the mode of {folder.path}."
        raise CommandError(f"Cannot delete tokens in {folder.path}: {error.strerror}", fix, FAILED) from None
    left = len(found) - deleted
    kept = f" Kept {left} of other configurations or environments; --all deletes them, too." if left else ""
    output.text(f"Deleted {deleted} token{'' if deleted == 1 else 's'}.{kept}")
    return SUCCESS


def delete(path: str, name: str) -> bool:
    """Delete a file of the cache's folder, and return whether there was one."""
    with PrivateFolder(path, make_parents=False) as folder:
        return folder.remove(name)


COMMAND: Final = Command(
    name="clear",
    help="delete cached tokens, also while other processes read them",
    description="Delete this configuration's cached tokens and failures, so that the next lookup requests a token.\n"
    "A running process keeps the token in its memory until it is due for renewal.",
    epilog="""examples:
  ecr-secrets-backend clear          # for example, after you have fixed a permission or a role
  ecr-secrets-backend clear --all""",
    arguments=(
        argument("--all", action="store_true", help="also those of this user's other configurations and environments"),
        *configuration.ARGUMENTS,
    ),
    run=run,
)

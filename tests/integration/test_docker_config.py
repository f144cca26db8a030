"""``docker-config`` with files of other users of the host, and mounts."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins
from tests.command_settings import US_HOST
from tests.docker_logins import arguments, config, passwords, write
from tests.integration.commands import COMMAND, run
from tests.requirements import need_root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.process_helpers import Processes

__all__ = ["arguments", "config"]

OTHER_USER = 54322
LOGIN = {US_HOST: "YTpi"}
SECRET = "what-is-root-s-alone"


@pytest.fixture
def _root() -> None:
    need_root()


@pytest.mark.usefixtures("_root")
class TestRoot:
    """Root may write for another user, and that user may have prepared the folder."""

    @pytest.mark.parametrize("owned", ["folder and file", "file"])
    def test_the_new_file_belongs_to_the_user(self, config: Path, owned: str) -> None:
        """In a container, a file that is mounted alone may belong to a user of the host."""
        write(config, {})
        for path in (config, config.parent)[: 1 + owned.startswith("folder")]:
            os.chown(path, OTHER_USER, OTHER_USER + 1)
        change_logins(config.parent, LOGIN, {})

        assert (config.stat().st_uid, config.stat().st_gid) == (OTHER_USER, OTHER_USER + 1)
        assert passwords(config)

    @pytest.mark.parametrize("link", ["docker", "docker/config.json", "new"])
    @pytest.mark.parametrize("owned", ["link", "folder"])
    def test_a_link_of_another_user_is_refused(self, tmp_path: Path, link: str, owned: str) -> None:
        """It may lead to a file of root's; a user may also move a link of root's into an own folder."""
        home, own = tmp_path / "home", tmp_path / "own"
        write(own / "docker/config.json", {})
        (home / link).parent.mkdir(parents=True)
        (home / link).symlink_to(own / link if link != "new" else own)
        os.lchown(home / link if owned == "link" else (home / link).parent, OTHER_USER, OTHER_USER)
        with pytest.raises(CommandError, match="is a link that another user controls") as raised:
            change_logins(home / ("new/folder" if link == "new" else "docker"), LOGIN, {})

        assert raised.value.exit_code == 1
        assert [path.name for path in own.iterdir()] == ["docker"]
        assert (own / "docker/config.json").read_text() == "{}"

    @pytest.mark.parametrize("kind", ["hard link to root's file", "file in a folder like /tmp"])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_a_file_of_another_user_than_its_folder_is_refused(
        self, config: Path, kind: str, *, in_place: bool
    ) -> None:
        """If the other user could make it: the kernel may let a user make a hard link to root's file."""
        write(config, {})
        if kind.startswith("hard link"):
            os.chown(config.parent, OTHER_USER, OTHER_USER)
        else:
            config.parent.chmod(0o1777)
            os.chown(config, OTHER_USER, OTHER_USER)
        with pytest.raises(CommandError, match="belongs to another user than its folder"):
            change_logins(config.parent, LOGIN, {}, in_place=in_place)

        assert config.read_text() == "{}"

    @pytest.mark.parametrize("in_place", [False, True])
    def test_a_user_that_swaps_the_file_reads_and_changes_nothing_of_root_s(
        self, processes: Processes, shared_folder: Path, *, in_place: bool
    ) -> None:
        """Root neither reads nor writes a file of its own through a link that appears at any moment."""
        secret, folder = shared_folder / "root.json", shared_folder / "docker"
        secret.write_text(json.dumps({"auths": {"ghcr.io": {"auth": SECRET}}}))
        secret.chmod(0o600)
        before = secret.read_text()
        folder.mkdir()
        os.chown(folder, OTHER_USER, OTHER_USER)
        with processes.start(swap_for_ever, folder, secret, user=OTHER_USER):
            while not (folder / "config.json").is_fifo():
                time.sleep(0.02)
            written = 0
            while written < 50:
                with suppress(CommandError):
                    written += len(change_logins(folder, {US_HOST: str(written)}, {}, in_place=in_place))
                with suppress(CommandError):
                    assert "ghcr.io" not in DockerConfig.load(folder).auths

        assert secret.read_text() == before
        assert not (folder / "stolen").exists()


def swap_for_ever(folder: Path, secret: Path) -> None:
    """Replace links to root's file, pipes and files with each other, and report a secret that appears."""
    new = folder / "new"
    while True:
        for make in (lambda: new.symlink_to(secret), lambda: os.mkfifo(new), lambda: new.write_text("{}")):
            with suppress(OSError):
                make()
                new.replace(folder / "config.json")
            with suppress(OSError):
                descriptor = os.open(folder / "config.json", os.O_RDONLY | os.O_NONBLOCK)
                if SECRET.encode() in os.read(descriptor, 65536):
                    (folder / "stolen").touch()
                os.close(descriptor)


@pytest.mark.usefixtures("_root")
class TestMounts:
    def test_a_file_that_is_mounted_alone_is_written_in_place(
        self, arguments: Arguments, config: Path, tmp_path: Path
    ) -> None:
        """With --in-place. Without it, the message names the option and the folder."""
        write(config, {})
        mounted = tmp_path / "mounted.json"
        mounted.write_text("{}")
        shell = ("unshare", "--mount", "sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", mounted, config)
        command = [*shell, *COMMAND, *arguments]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        subprocess.run([*command, "--in-place"], check=True)

        assert refused.returncode == 1
        assert "Mount the folder instead of the file, or use --in-place" in refused.stderr
        assert config.read_text() == "{}"
        assert len(passwords(mounted)) == 2

    def test_a_reader_that_has_mounted_the_file_alone_is_reported(
        self, arguments: Arguments, config: Path, tmp_path: Path
    ) -> None:
        """Such a container keeps the old login for ever. It is also reported after the file was replaced."""
        write(config, {})
        (tmp_path / "mounted.json").touch()
        script = 'mount --bind "$1" "$2"; echo ready; cat'
        reader = ("unshare", "--mount", "sh", "-ec", script, "sh", config, tmp_path / "mounted.json")
        assert "another link or mount" not in run(*arguments, "docker_default").stderr
        with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            done = [run(*arguments), run(*arguments)]
            process.communicate()

        for each in done:
            assert "has another link or mount, where the old login stays. Mount the folder" in each.stderr

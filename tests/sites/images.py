"""Images for the registries and the engine: a small one, one with Python, and some with an old build date."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from tests.sites.world import PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Folders of the standard library that the small program does not need.
LEFT_OUT = re.compile(
    r".*/(__pycache__|config-.*|ensurepip|idlelib|lib2to3|pydoc_data|site-packages|test|tkinter|turtledemo|unittest)$"
)


def write_image(archive: Path, greeting: str) -> None:
    """Write the root of an image with only busybox's `cat` and the greeting."""
    with tarfile.open(archive, "w") as image:
        add_busybox(image)
        add_greeting(image, greeting)


def write_python_image(archive: Path, greeting: str) -> None:
    """Write the root of an image with bash, the Python that runs the tests, and the greeting."""
    interpreter, bash = Path(sys.executable).resolve(), Path(str(which("bash", path=PATH))).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    files = {
        "/bin/bash": bash,
        "/usr/local/bin/python3": interpreter,  # here it finds its library, whatever its prefix is
        f"/usr/local/lib/{library.name}": library,
        **{path: Path(path) for path in shared_libraries(interpreter, bash, *library.glob("lib-dynload/*.so"))},
    }
    with tarfile.open(archive, "w", dereference=True) as image:
        for path, file in files.items():
            image.add(file, path, filter=lambda entry: None if LEFT_OUT.match(entry.name) else entry)
        add_greeting(image, greeting)


def shared_libraries(*programs: Path) -> set[str]:
    """Return the libraries that programs and extensions need, with the loader."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", listed))


def write_dated_image(archive: Path, name: str, created: str, labels: Mapping[str, str]) -> None:
    """
    Write an image for ``docker load``, which keeps the build date.

    :param name: the name of the image, which is also the content of its layer
    :param created: the time, ISO 8601
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as root:
        add_busybox(root)
        add(root, "name", name.encode())
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Cmd": ["cat"], "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "image.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as image:
        add(image, "layer.tar", layer.getvalue())
        add(image, "image.json", json.dumps(configuration).encode())
        add(image, "manifest.json", json.dumps(manifest).encode())


def add_busybox(archive: tarfile.TarFile) -> None:
    archive.add(str(which("busybox", path=PATH)), "bin/cat")


def add_greeting(archive: tarfile.TarFile, greeting: str) -> None:
    """Add the file that the image prints, and a folder for temporary files."""
    add(archive, "greeting", greeting.encode())
    temporary = tarfile.TarInfo("tmp")
    temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
    archive.addfile(temporary)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

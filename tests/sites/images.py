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

#: Parts of the standard library that the small program does not need, and that are large or need large libraries.
LEFT_OUT = re.compile(
    r".*/(__pycache__|config-.*|ensurepip|idlelib|lib2to3|pydoc_data|site-packages|test|tkinter|turtledemo|unittest"
    r"|(_codecs_|_curses|_decimal|_sqlite3|_ssl|_test|_tkinter|readline|unicodedata).*\.so)$"
)


def write_image(archive: Path, greeting: str, files: Mapping[str, Path] | None = None) -> None:
    """
    Write the root of an image that has a greeting to print, and a folder for temporary files.

    :param files: by their paths in the image; None: only busybox's `cat`
    """
    files = files or {"/bin/cat": Path(str(which("busybox", path=PATH)))}
    with tarfile.open(archive, "w", dereference=True) as image:
        for path, file in files.items():
            image.add(file, path, filter=lambda entry: None if LEFT_OUT.match(entry.name) else entry)
        add(image, "greeting", greeting.encode())
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        image.addfile(temporary)


def write_python_image(archive: Path, greeting: str) -> None:
    """Write the root of an image with bash, the Python that runs the tests, and the greeting."""
    interpreter, bash = Path(sys.executable).resolve(), Path(str(which("bash", path=PATH))).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    extensions = [path for path in library.glob("lib-dynload/*.so") if not LEFT_OUT.match(str(path))]
    files = {
        "/bin/bash": bash,
        "/usr/local/bin/python3": interpreter,  # here it finds its library, whatever its prefix is
        f"/usr/local/lib/{library.name}": library,
        **{path: Path(path) for path in shared_libraries(interpreter, bash, *extensions)},
    }
    write_image(archive, greeting, files)


def shared_libraries(*programs: Path) -> set[str]:
    """Return the libraries that programs and extensions need, with the loader."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", listed))


def write_dated_images(archive: Path, images: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
    """
    Write images for ``docker load``, which keeps their build dates.

    :param images: the date, ISO 8601, and the labels of each, by name
    """
    layer = archive.with_suffix(".layer")
    write_image(layer, "")
    content = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"]},
    }
    manifest = []
    with tarfile.open(archive, "w") as together:
        together.add(layer, "layer.tar")
        for name, (created, labels) in images.items():
            # With its own author, no image has the content, and so the ID, of another.
            own = {"created": created, "author": name, "config": {"Cmd": ["cat"], "Labels": labels}}
            manifest.append({"Config": f"{name}.json", "RepoTags": [name], "Layers": ["layer.tar"]})
            add(together, f"{name}.json", json.dumps({**content, **own}).encode())
        add(together, "manifest.json", json.dumps(manifest).encode())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

"""The demo succeeds, and the recorded session of the README is its output."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import groupby
from xml.etree import ElementTree as ET

import pytest

from examples.demo.record import SESSION
from tests.documentation.pages import PROJECT

#: Text that differs between runs. The order of the tasks, and which of them request a token, differ, too.
VARYING = {
    r"Airflow \d+\.\d+\.\d+": "Airflow <version>",
    r"\.+ \d+\.\d s$": "<seconds>",
    r"[\d:.]+ (\w+) \d+ (\w+) (\S+) \d+ ms (?:AWS|cache)$": r"<time> \1 \2 \3",
    r"\d+ h \d+ min": "<left>",
    r"\d+ files \(\d+\.\d MB": "<files>",
    r"\d+ database values": "<values>",
}


def shown(drawing: str) -> str:
    """Read a drawing as text. The pieces of a line have the same clip path, and the title has none."""
    pieces = ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - a file of this project
    lines = groupby(pieces, key=lambda piece: piece.get("clip-path"))
    return "\n".join(" ".join("".join(piece.itertext()) for piece in line) for path, line in lines if path)


def shape(session: str) -> list[str]:
    """Mask the text that differs, and join the lines of a result. The number of spaces is ignored."""
    lines = "\n".join(line.replace("\xa0", " ") for line in session.splitlines() if line.strip())
    masked = [" ".join(line.split()) for line in re.sub(r"\n {10}(?=\S)", " ", lines).splitlines()]
    for pattern, mask in VARYING.items():
        masked = [re.sub(pattern, mask, line) for line in masked]
    return sorted(masked)


@pytest.mark.timeout(400)  # it takes 20 s, and ends by itself if Airflow hangs
def test_the_recorded_session_is_the_output_of_the_demo() -> None:
    """``make demo RECORD=yes`` records it again."""
    demo = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr

    assert shape(shown(SESSION.read_text())) == shape(f"$ make demo\n{demo.stdout}")

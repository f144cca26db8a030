"""Run the demo, and draw its terminal session for the README."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

SESSION = Path(__file__).parents[2] / "docs/demo.svg"
COLOURS = {
    r"^\$ .*": "bold",
    r"^  ok\b": "bold green",
    r"^\[secrets\]": "magenta",
    r"AWS$": "yellow",
    r"cache$": "cyan",
}
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"


def main() -> int:
    """Print the demo's output, draw it if the demo succeeds, and return the demo's exit code."""
    lines = ["$ make demo"]
    with subprocess.Popen([sys.executable, "-m", "examples.demo"], stdout=subprocess.PIPE, text=True) as demo:
        for line in demo.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if demo.returncode == 0:
        SESSION.write_text(draw(lines))
    return demo.returncode


def draw(lines: list[str]) -> str:
    """Return a drawing of a terminal with these lines, as SVG that loads no font."""
    console = Console(record=True, width=max(map(len, lines)) + 2, file=io.StringIO())
    for line in lines:
        text = Text(line)
        for pattern, colour in COLOURS.items():
            text.highlight_regex(pattern, colour)
        console.print(text)
    drawn = console.export_svg(title="airflow-ecr-secrets-backend")
    drawn = re.sub(r" *@font-face \{.*?\}\n\s*", "", drawn, flags=re.DOTALL)
    return re.sub(r"Fira Code|arial", FONTS, drawn)


if __name__ == "__main__":
    sys.exit(main())

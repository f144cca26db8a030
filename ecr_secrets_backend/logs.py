"""Log lines that never fail a lookup: a filter or handler that raises is ignored."""

from __future__ import annotations

import logging
from contextlib import suppress


def log(logger: logging.Logger, level: int, message: str, *arguments: object) -> None:
    """Log a line, and raise nothing."""
    with suppress(Exception):
        logger.log(level, message, *arguments, stacklevel=2)

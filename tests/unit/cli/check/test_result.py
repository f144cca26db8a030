from __future__ import annotations

import base64
import secrets
from urllib.parse import quote_plus

import pytest

from ecr_secrets_backend.cli.check.result import LONGEST_MESSAGE, StepResult, causes

TOKEN = base64.b64encode(secrets.token_bytes(1500)).decode()
HEADER = base64.b64encode(f"AWS:{TOKEN}".encode()).decode()
IN_URL, IN_JSON = quote_plus(TOKEN), TOKEN.replace("/", r"\/")


def test_a_result_is_one_bounded_line() -> None:
    """A registry, an engine, a file or a database may have written anything into it."""
    result = StepResult("\x1b[2J\n" + "a " * 200_000, "failed", "a-code", "b\n\x07").without(())

    assert (result.message + str(result.fix)).isprintable()
    assert len(result.message) == LONGEST_MESSAGE


@pytest.mark.parametrize("echo", [TOKEN, HEADER, HEADER[:300], TOKEN[40:500], HEADER[7:30], IN_URL, IN_JSON])
@pytest.mark.parametrize("around", ["", "=", "/"])
def test_a_result_shows_no_part_of_the_token_that_was_sent(echo: str, around: str) -> None:
    """A registry or an engine may repeat it, whole or cut, in either form, and escaped for a URL or JSON."""
    text = f"denied: Basic {around}{echo} is unknown, {around}{echo}"
    result = StepResult(text, fix=text).without([TOKEN, HEADER])

    assert result.message == result.fix == "denied: Basic *** is unknown, ***"


def test_a_result_keeps_the_words_that_are_no_secret() -> None:
    words = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/app@sha256:{'0' * 64} of arn:aws:iam::123456789012:role/pull"

    assert StepResult(words).without([TOKEN, HEADER]).message == words


def test_each_exception_in_another_is_found_once() -> None:
    """Python chains exceptions, urllib3 and requests hold them in attributes and arguments."""
    inner, outer = OSError("refused"), RuntimeError("outer", ValueError("argument"))
    outer.__cause__ = inner
    inner.__context__ = outer

    assert sorted(type(cause).__name__ for cause in causes(outer)) == ["OSError", "RuntimeError", "ValueError"]

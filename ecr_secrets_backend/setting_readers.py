"""Readers of single kwargs: each returns a checked value, or raises an error that names the path of the fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.registry import partition_of

#: Reads a value: a function of its path and of what was given, which returns it or raises ConfigurationError.
Reader = Callable[[str, object], Any]


def text(path: str, value: object) -> str:
    """Read a plain string."""
    if not isinstance(value, str):
        raise ConfigurationError(path, f"is {kind_of(value)}", "write a string")
    if not value or value != value.strip() or not value.isprintable():
        raise ConfigurationError(
            path,
            "is empty" if not value.strip() else "has white space around it or a control character in it",
            "write a plain string",
        )
    return value


def structure(path: str, value: object, kind: type, form: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read a structured value, as it is or as JSON text: Airflow's per-kwarg environment variables are raw strings."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError(path, "is a string that is not JSON", f"write {form}") from None
    if not isinstance(value, kind):
        raise ConfigurationError(path, f"is {kind_of(value)}", f"write {form}")
    return value


def mapping(path: str, value: object) -> dict[str, object]:
    """Read an object."""
    given: dict[str, object] = structure(path, value, dict, "an object")
    for key in given:
        text(f"{path}.{key}", key)
    return given


def one_of(*choices: str) -> Reader:
    """Return a reader of one of a few strings."""

    def read(path: str, value: object) -> str:
        if value not in choices:
            raise ConfigurationError(path, f"is {shown(value)}", "write " + " or ".join(map(json.dumps, choices)))
        return str(value)

    return read


def matching(pattern: str, problem: str, remedy: str) -> Reader:
    """Return a reader of strings that match a regular expression as a whole."""
    compiled: list[re.Pattern[str]] = []  # on demand, because Airflow builds the backend in every process

    def read(path: str, value: object) -> str:
        given = text(path, value)
        if not compiled:
            compiled.append(re.compile(pattern, re.ASCII))
        if not compiled[0].fullmatch(given):
            raise ConfigurationError(path, problem, remedy)
        return given

    return read


def region(path: str, value: object) -> str:
    """Read the name of a region of AWS."""
    name = text(path, value)
    if partition_of(name) is None:
        raise ConfigurationError(path, f"is {shown(name)}, which is not a region of AWS", "write one such as us-east-1")
    return name


def verify(path: str, value: object) -> bool | str:
    """Read boto3's ``verify``."""
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(path, value)
    raise ConfigurationError(path, f"is {kind_of(value)}", "write true, false, or the path of a CA bundle")


def seconds(path: str, value: object) -> float:
    """Read a number of seconds."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigurationError(path, f"is {shown(value)}", "write a number of seconds, such as 3600")
    return number


def absolute_path(path: str, value: object) -> str:
    """Read an absolute path."""
    given = text(path, value)
    if not given.startswith("/"):
        raise ConfigurationError(path, f"is {shown(given)}", "write an absolute path")
    return given


def to_json(path: str, value: object) -> str:
    """Return a value as JSON text."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        raise ConfigurationError(path, "is too deep", "nest it less") from None


#: Source: ``sanitize_conn_id`` in Airflow's ``models/connection.py``.
conn_id = matching(
    r"[\w#!()\-.:/\\]{1,250}",
    "is no ID of an Airflow connection",
    "write letters, digits and any of # ! ( ) - . : / \\ _",
)
class_name = matching(
    r"[^\W\d]\w*(\.[^\W\d]\w*)+",
    "is no dotted name of a class",
    "write one such as airflow.secrets.local_filesystem.LocalFilesystemBackend",
)


def unknown_setting(path: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """Return the error of a name that is not known, with the one that was probably meant."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return ConfigurationError(path, "is no setting", remedy)


def kind_of(value: object) -> str:
    """Return the type of a JSON value, not the value: it may be a secret in the wrong place."""
    if value is None:
        return "null"
    names = {dict: "object", str: "string", bool: "truth value", int: "number", float: "number"}
    name = names.get(type(value), type(value).__name__)
    return f"an {name}" if name == "object" else f"a {name}"


def shown(value: object) -> str:
    """Return a value that is not a secret, in one line and not at length."""
    try:
        line = json.dumps(value, default=lambda other: f"a {type(other).__name__}")
    except RecursionError:
        line = "too deep"
    return line if len(line) <= 60 else f"{line[:57]}..."  # noqa: PLR2004 - about a line

"""Readers of single kwargs: each returns a checked value, or raises an error that names the path of the fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
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
        problem = "has white space around it or a control character in it" if value.strip() else "is empty"
        raise ConfigurationError(path, problem, "write a plain string")
    return value


def structure(kind: type, form: str, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Read a structured value, as it is or as JSON text: Airflow's per-kwarg environment variables are raw strings."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError(path, "is a string that is not JSON", f"write {form}") from None
    if not isinstance(value, kind):
        raise ConfigurationError(path, f"is {kind_of(value)}", f"write {form}")
    return value


def mapping(path: str, value: object, form: str = "an object") -> dict[str, Any]:
    """Read an object, whose keys are plain strings."""
    given: dict[str, Any] = structure(dict, form, path, value)
    for key in given:
        text(f"{path}.{key}", key)
    return given


def choice(choices: tuple[str, ...], path: str, value: object) -> str:
    """Read one of a few strings."""
    if value not in choices:
        raise ConfigurationError(path, f"is {shown(value)}", "write " + " or ".join(map(json.dumps, choices)))
    return str(value)


def matching(pattern: str, problem: str, remedy: str, path: str, value: object) -> str:
    """Read a string that matches a regular expression as a whole."""
    given = text(path, value)
    if not re.fullmatch(pattern, given, re.ASCII):  # compiled at need: Airflow builds the backend in every process
        raise ConfigurationError(path, problem, remedy)
    return given


#: Source: ``sanitize_conn_id`` in Airflow's ``models/connection.py``.
conn_id: Reader = partial(
    matching,
    r"[\w#!()\-.:/\\]{1,250}",
    "is not the ID of an Airflow connection",
    "write letters, digits and any of # ! ( ) - . : / \\ _",
)
class_name: Reader = partial(
    matching,
    r"[^\W\d]\w*(\.[^\W\d]\w*)+",
    "is not the dotted name of a class",
    "write one such as airflow.secrets.local_filesystem.LocalFilesystemBackend",
)


def region(path: str, value: object) -> str:
    """Read the name of a region of AWS."""
    name = text(path, value)
    if partition_of(name) is None:
        raise ConfigurationError(path, f"is {shown(name)}, which is not a region of AWS", "write one such as us-east-1")
    return name


def verify(path: str, value: object) -> bool | str:
    """Read boto3's ``verify``."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(path, f"is {kind_of(value)}", "write true, false, or the path of a CA bundle")
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return text(path, value)


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


def kind_of(value: object) -> str:
    """Return the type of a JSON value, not the value: it may be a secret in the wrong place."""
    if value is None:
        return "null"
    kinds = {dict: "an object", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def shown(value: object) -> str:
    """Return a value that is not a secret, in one line and not at length."""
    try:
        line = json.dumps(value, default=kind_of)
    except RecursionError:
        line = "too deep"
    return line if len(line) <= 60 else f"{line[:57]}..."  # noqa: PLR2004 - about a line

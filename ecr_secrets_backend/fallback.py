"""Other secrets backends, asked in order for what is not mapped."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final, final

from ecr_secrets_backend.airflow_compat import is_denial
from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.settings import FallbackBackend

logger = logging.getLogger(__name__)

#: What is looked up by each method; by the others, a connection.
_KINDS: Final = {"get_variable": "variable", "get_config": "option"}
#: What Airflow calls in every version. A class that has it is a backend: Airflow itself has two base classes.
_METHODS: Final = ("get_connection", "get_variable", "get_config")
_LONGEST_CHAIN: Final = 5  # from a client library's exception down to the system's
_AWS_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,100}")  # AWS's own have up to about 50 characters


@final  # so it is true, whatever is in it
class FallbackChain:
    """Other backends, in the order in which they are asked.

    They are built with the chain, so that a wrong name stops Airflow at its start, as it would if they stood alone.
    Threads may share the chain, and children inherit it, if its backends allow that.

    :raises ConfigurationError: one of them cannot be imported or built
    """

    def __init__(self, configured: Iterable[FallbackBackend]) -> None:
        self._backends = {f"{each.path} ({each.backend})": _build(each) for each in configured}

    def set_connection_class(self, wanted: type) -> None:
        """Pass the class of Connection that Airflow wants to the backends that take it: those for 3.2 and later."""
        for backend in self._backends.values():
            if hasattr(backend, "_set_connection_class"):
                backend._set_connection_class(wanted)  # noqa: SLF001 - Airflow itself calls it

    def look_up(self, method: str, **asked: str | None) -> Any:  # noqa: ANN401 - a text, or of the class Airflow wants
        """Return the first answer, or raise it if it is a denial; None if no backend has any. Log other failures.

        :param method: Airflow's name for the lookup, such as ``get_variable``
        :param asked: its arguments: the ID or key first, then the ``team_name`` for the backends that take one
        :raises Exception: an option of Airflow's configuration could not be looked up
        """
        kind = _KINDS.get(method, "connection")
        failures: list[Exception] = []
        for name, backend in self._backends.items():
            try:
                answer = _ask(getattr(backend, method), **asked)
            except NotImplementedError:  # noqa: PERF203 - each backend fails by itself
                continue  # the backend inherits that method, and has nothing of that kind
            except Exception as error:
                if is_denial(error):
                    raise
                failures.append(error)
                message = "%s failed to look up %s %r: %s. The next is asked."
                key = next(iter(asked.values()))
                logger.error(message, name, kind, key, _describe(error))  # noqa: TRY400 - no traceback: see there
            else:
                if answer or (answer is not None and kind != "connection"):  # an empty connection does not count
                    return answer
        if kind == "option" and failures:  # for None, Airflow would start with its default
            raise failures[0]
        return None


def _ask(look_up: Callable[..., Any], **asked: str | None) -> Any:  # noqa: ANN401
    if not _takes_team_name(getattr(look_up, "__func__", look_up)):
        asked.pop("team_name", None)
    return look_up(**asked)


@lru_cache
def _takes_team_name(method: Callable[..., Any]) -> bool:
    """Return whether a backend's method takes the name of a team, which Airflow passes from 3.2 on."""
    parameters = inspect.signature(method).parameters.values()
    return any(each.name == "team_name" or each.kind is each.VAR_KEYWORD for each in parameters)


def _build(settings: FallbackBackend) -> Any:  # noqa: ANN401 - of the class that is configured
    backend = _import(settings)
    try:
        inspect.signature(backend).bind(**settings.kwargs)
    except TypeError as error:
        problem = f"do not fit: {error}"  # which quotes names, and no values
    else:
        try:
            return backend(**settings.kwargs)
        except Exception as error:  # noqa: BLE001 - any exception means that the class refuses its kwargs
            problem = f"are refused: {_describe(error)}"
    # Raised outside the except block, so that no exception is attached whose words and local variables show the kwargs.
    fix = f"Write what {settings.backend} takes as its own backend_kwargs."
    raise ConfigurationError(f"{settings.path}.backend_kwargs", problem, fix)


def _import(settings: FallbackBackend) -> type:
    path = f"{settings.path}.backend"
    module, _, name = settings.backend.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        problem = f"is {settings.backend}, which cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(path, problem, "Correct the name, or install its package.") from error
    if not isinstance(found, type) or not all(callable(getattr(found, method, None)) for method in _METHODS):
        problem = f"is {settings.backend}, which is not a secrets backend"
        raise ConfigurationError(path, problem, "Name a subclass of airflow.secrets.BaseSecretsBackend.")
    return found


def _describe(error: Exception) -> str:
    """Return an exception's type and place and its causes' types: their words may quote a secret, such as a URI."""
    try:
        types: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(types) < _LONGEST_CHAIN:
            types.append(_type_and_code(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        *_, (frame, line) = walk_tb(error.__traceback__)
        return f"{', from '.join(types)} (at {Path(frame.f_code.co_filename).name}:{line})"
    except Exception:  # noqa: BLE001 - an exception may define its attributes, and they may raise
        return type(error).__qualname__


def _type_and_code(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    match getattr(error, "response", None):
        case {"Error": {"Code": str(code)}} if _AWS_CODE.fullmatch(code):
            return f"{name} {code}"  # botocore's ClientError
        case _:
            return name
